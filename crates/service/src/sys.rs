//! What wakes a reactor: the only thing of an operating system that handlers' side of it needs.

#[cfg(target_os = "linux")]
pub(crate) use crate::reactor::Bell;

/// Of a system without a reactor, so far: there is none.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(crate) enum Bell {}

#[cfg(not(target_os = "linux"))]
impl ginnel_base::Wake for Bell {
    fn wake(&self) {
        match *self {}
    }
}
