//! A parent and its child, two channels: control there, status back. The child is killed, and started again.
//!
//! The child finds its ends in the environment (`OVERLAY_CONTROL_CHANNEL`, `OVERLAY_STATUS_CHANNEL`, `OVERLAY_ID`);
//! nothing has a name in a file system. A child that is started again gets a new link, and is told the state again.
//!
//! Run it: `cargo run -p ginnel --example overlay`

use ginnel::channel::{CloseCause, Link, Postcard, RecvError};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::process::{Child, Command};

/// What the parent says.
#[derive(Debug, Serialize, Deserialize)]
enum Control {
    Show(String),
    Hide,
}

/// What the child says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Status {
    Ready { pid: u32 },
    Visible(String),
    Hidden,
}

type ParentLink = Link<Control, Status, Postcard, Postcard>;
type ChildLink = Link<Status, Control, Postcard, Postcard>;

fn main() -> Result<(), Box<dyn Error>> {
    // The same program plays both parts: the child is the one that was given a link.
    if std::env::var_os("OVERLAY_ID").is_some() { overlay() } else { parent() }
}

fn start(id: &str) -> Result<(ParentLink, Child), Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    let link = Link::export("overlay", id, &mut command)?;
    let child = command.spawn()?;
    Ok((link, child))
    // `command` ends here, and with it our copies of the child's ends.
}

fn parent() -> Result<(), Box<dyn Error>> {
    let (mut link, mut child) = start("1")?;
    assert_eq!(link.incoming.recv()?, Status::Ready { pid: child.id() });
    println!("overlay 1 is process {}", child.id());

    link.outgoing.publish(&Control::Show("hello".into()))?;
    println!("it says {:?}", link.incoming.recv()?);

    child.kill()?;
    // No polling and no timeout: the kernel tells the reader that its writer is gone.
    let RecvError::Closed { cause: CloseCause::Died } = link.incoming.recv().unwrap_err() else {
        return Err("a killed child was not noticed".into());
    };
    println!("it died ({}): start it again, and tell it what it should show", child.wait()?);

    let (mut link, mut child) = start("2")?;
    assert_eq!(link.incoming.recv()?, Status::Ready { pid: child.id() });
    link.outgoing.publish(&Control::Show("hello".into()))?;
    assert_eq!(link.incoming.recv()?, Status::Visible("hello".into()));
    link.outgoing.publish(&Control::Hide)?;
    assert_eq!(link.incoming.recv()?, Status::Hidden);
    println!("overlay 2 showed \"hello\" again and is hidden now");

    // Closing the control channel asks the child to end.
    let Link { outgoing, mut incoming, .. } = link;
    outgoing.close();
    assert!(matches!(incoming.recv(), Err(RecvError::Closed { cause: CloseCause::Closed })));
    let status = child.wait()?;
    println!("overlay 2 ended by itself: {status}");
    if status.success() { Ok(()) } else { Err("the overlay failed".into()) }
}

fn overlay() -> Result<(), Box<dyn Error>> {
    let mut link: ChildLink = Link::from_env("overlay")?;
    link.outgoing.publish(&Status::Ready { pid: std::process::id() })?;
    // Ends when the parent closes its channel; an error if the parent died.
    for control in link.incoming.iter() {
        let status = match control? {
            Control::Show(text) => Status::Visible(text),
            Control::Hide => Status::Hidden,
        };
        link.outgoing.publish(&status)?;
    }
    Ok(())
}
