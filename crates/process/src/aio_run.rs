//! Commands for the tokio runtime. What is done is the blocking face's ([`Capture`], [`Splitter`],
//! [`launch`](crate::launch)); here a runtime says when.

use crate::aio::{AsyncStream, Ending};
use crate::capture::{CHUNK, Capture, Feed, Output, Sink, conclude, nonblocking};
use crate::child::{Child, Handle};
use crate::command::Command;
use crate::error::{RunError, SpawnError, WaitError};
use crate::frame::cause;
use crate::input::Input;
use crate::lines::{AHEAD, Line, Source, Splitter, prepare, strict};
use crate::link::Link;
use crate::pipeline::{self, Pipeline, PipelineOutput, RunningPipeline};
use crate::pty::PtyMaster;
use crate::report::ExitReport;
use crate::streams::{ChildStderr, ChildStdout, Which};
use crate::sys;
use rustix::io::Errno;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::sync::oneshot;

impl Command {
    /// As [`spawn`](Self::spawn), for tokio: a thread does the start, for it may take as long as a file system does. A
    /// future that is dropped ends what has started meanwhile.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub async fn spawn_async(&self) -> Result<Child, SpawnError> {
        let command = self.clone();
        elsewhere(&self.program, move || command.spawn()).await
    }

    /// As [`run`](Self::run), for tokio. A future that is dropped ends the tree by its kill ladder, without waiting.
    ///
    /// A [`tee_stdout`](Self::tee_stdout) is written by the runtime's thread.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use ginnel_process::Command;
    ///
    /// let output = Command::new("tr").args(["a-z", "A-Z"]).input(*b"quiet").run_async().await.unwrap().ok().unwrap();
    /// assert_eq!(output.stdout, b"QUIET");
    /// # });
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled, as tokio does.
    pub async fn run_async(&self) -> Result<Output, RunError> {
        let command = self.for_run();
        let mut child = command.spawn_async().await?;
        let result = fill(&command, command.input.as_ref(), None, &mut child).await;
        if result.is_err() {
            child.handle().kill();
        }
        let report = child.wait_async().await;
        conclude(result?, report)
    }

    /// As [`stream`](Self::stream), for tokio.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use ginnel_process::Command;
    ///
    /// let mut lines = Command::new("seq").arg("3").stream_async().await.unwrap();
    /// while let Some(line) = lines.next_line().await.unwrap() {
    ///     println!("{line}");
    /// }
    /// assert!(lines.finish().await.unwrap().success());
    /// # });
    /// ```
    ///
    /// # Errors
    /// As [`stream`](Self::stream), and when the runtime cannot watch a stream.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled, as tokio does.
    pub async fn stream_async(&self) -> Result<AsyncLines, RunError> {
        AsyncLines::start(self, false).await
    }

    /// As [`stream_both`](Self::stream_both), for tokio: see [`AsyncLines::next_of_both`].
    ///
    /// # Errors
    /// As [`stream_async`](Self::stream_async).
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled, as tokio does.
    pub async fn stream_both_async(&self) -> Result<AsyncLines, RunError> {
        AsyncLines::start(self, true).await
    }
}

impl Pipeline {
    /// As [`spawn`](Self::spawn), for tokio; as [`Command::spawn_async`].
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub async fn spawn_async(&self) -> Result<RunningPipeline, SpawnError> {
        let pipeline = self.clone();
        elsewhere("pipeline".as_ref(), move || pipeline.spawn()).await
    }

    /// As [`run`](Self::run), for tokio. A future that is dropped ends every tree by its kill ladder, without waiting.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled, as tokio does.
    pub async fn run_async(&self) -> Result<PipelineOutput, RunError> {
        let commands = self.for_run()?;
        let (input, last) = (commands[0].input.clone(), commands[commands.len() - 1].clone());
        let mut running = elsewhere(&last.program, move || pipeline::start(commands)).await?;
        let result = match running.ends() {
            (first, Some(end)) => fill(&last, input.as_ref(), Some(first), end).await,
            (only, None) => fill(&last, input.as_ref(), None, only).await,
        };
        if result.is_err() {
            running.kill_all();
        }
        let reports = running.wait_async().await;
        running.conclude(result?, reports)
    }
}

impl RunningPipeline {
    /// As [`wait`](Self::wait), for tokio.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled, as tokio does.
    pub async fn wait_async(&mut self) -> Result<Vec<ExitReport>, WaitError> {
        let children = self.children();
        children.iter_mut().for_each(Child::close_stdin);
        let mut reports = Vec::with_capacity(children.len());
        for child in children.iter_mut().rev() {
            reports.push(child.wait_async().await);
        }
        reports.reverse();
        reports.into_iter().collect()
    }
}

/// Does what blocks on a thread of its own.
async fn elsewhere<T: Send + 'static>(
    program: &std::ffi::OsStr,
    work: impl FnOnce() -> Result<T, SpawnError> + Send + 'static,
) -> Result<T, SpawnError> {
    let (done, heard) = oneshot::channel();
    let failed = |errno| SpawnError::Failed {
        stage: crate::error::Stage::Shepherd,
        errno,
        program: program.to_owned(),
        index: 0,
    };
    let thread = ginnel_base::thread::spawn("ginnel-spawn", move || {
        // Whoever has given up drops what was started, which ends it.
        drop(done.send(work()));
    });
    thread.map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)))?;
    // Without an answer the thread has panicked.
    heard.await.unwrap_or_else(|_| Err(failed(Errno::CANCELED)))
}

impl Child {
    /// As [`wait`](Child::wait), for tokio: also closes stdin and throws away what nobody took. Dropping the future
    /// loses nothing; the wait can be taken up again.
    ///
    /// # Errors
    /// As [`wait`](Child::wait).
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled, as tokio does.
    pub async fn wait_async(&mut self) -> Result<ExitReport, WaitError> {
        self.stdin = None;
        let link = Arc::clone(self.link());
        let mut capture = Capture::nothing(self);
        // Without a runtime's help it blocks at the end.
        if let Ok(mut ending) = Ending::new(&link) {
            while let Err(error) = drive(&link, &mut ending, &mut capture).await {
                tracing::debug!(%error, "reading what nobody wants");
                if !link.traffic.exceeded() {
                    link.stop(cause::STOPPED, None, false);
                }
                // The stream that failed is of no use; closing it lets the command notice.
                capture.sinks.clear();
            }
            // Not that of a stream, which somebody else may hold open.
            poll_fn(|context| ending.poll(context)).await;
        }
        drop(capture);
        self.wait()
    }

    /// As [`stop`](Child::stop), for tokio. Once polled, the tree is being ended, also when the future is dropped.
    ///
    /// # Errors
    /// As [`wait`](Child::wait).
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled, as tokio does.
    pub async fn stop_async(&mut self) -> Result<ExitReport, WaitError> {
        self.handle().stop();
        self.wait_async().await
    }

    /// As [`kill`](Child::kill), for tokio. Once polled, the tree is being killed, also when the future is dropped.
    ///
    /// # Errors
    /// As [`wait`](Child::wait).
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled, as tokio does.
    pub async fn kill_async(&mut self) -> Result<ExitReport, WaitError> {
        self.handle().kill();
        self.wait_async().await
    }
}

impl Handle {
    /// As [`wait`](Handle::wait), for tokio.
    ///
    /// # Errors
    /// As [`wait`](Handle::wait).
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled, as tokio does.
    pub async fn wait_async(&self) -> Result<ExitReport, WaitError> {
        if let Ok(mut ending) = Ending::new(&self.0) {
            poll_fn(|context| ending.poll(context)).await;
        }
        self.wait()
    }
}

/// As `capture::fill`.
async fn fill(
    command: &Command,
    input: Option<&Input>,
    first: Option<&mut Child>,
    last: &mut Child,
) -> io::Result<Capture> {
    let mut capture = Capture::new(command, input, first, last)?;
    let link = Arc::clone(last.link());
    let mut ending = Ending::new(&link)?;
    let result = drive(&link, &mut ending, &mut capture).await;
    capture.feed = None;
    match result {
        Err(error) if !link.traffic.exceeded() => Err(error),
        _ => Ok(capture),
    }
}

/// As `capture::pump`: until all streams have ended, or the tree has and nothing is left to read. Whatever the end, the
/// sinks are back in
/// `capture` with what they have.
async fn drive(link: &Arc<Link>, ending: &mut Ending, capture: &mut Capture) -> io::Result<()> {
    let mut driven = Driven { back: capture, sinks: Vec::new(), feed: None, buf: vec![0; CHUNK] };
    driven.start()?;
    poll_fn(|context| driven.poll(link, ending, context)).await
}

/// Streams that a runtime watches.
struct Driven<'a> {
    back: &'a mut Capture,
    /// Each with whether it may have more.
    sinks: Vec<(AsyncFd<Sink>, bool)>,
    feed: Option<AsyncFd<Feed>>,
    buf: Vec<u8>,
}

impl Driven<'_> {
    fn start(&mut self) -> io::Result<()> {
        for sink in std::mem::take(&mut self.back.sinks) {
            nonblocking(&sink)?;
            self.sinks.push((sys::watch(sink, Interest::READABLE)?, true));
        }
        if let Some(feed) = self.back.feed.take() {
            self.feed = Some(sys::watch(feed, Interest::WRITABLE)?);
        }
        Ok(())
    }

    fn poll(&mut self, link: &Link, ending: &mut Ending, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(feed) = &mut self.feed {
            let Poll::Ready(guard) = feed.poll_write_ready_mut(context) else { break };
            match guard?.try_io(|feed| feed.get_mut().give()) {
                Ok(more) => {
                    if !more? {
                        self.feed = None;
                    }
                }
                Err(_not_yet) => {}
            }
        }
        for (sink, open) in &mut self.sinks {
            while *open && let Poll::Ready(guard) = sink.poll_read_ready_mut(context) {
                match guard?.try_io(|sink| sink.get_mut().take(&mut self.buf)) {
                    Ok(more) => *open = more?,
                    Err(_not_yet) => {}
                }
            }
        }
        let open = self.sinks.iter().any(|(_, open)| *open);
        if !open && self.feed.is_none() {
            return Poll::Ready(Ok(()));
        }
        if ending.poll(context).is_pending() && !link.is_over() {
            return Poll::Pending;
        }
        // The rest of what it wrote is there. Whoever was left behind on purpose may hold a stream open for ever.
        for (sink, open) in &mut self.sinks {
            while *open {
                match sink.get_mut().take(&mut self.buf) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    more => *open = more?,
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Driven<'_> {
    fn drop(&mut self) {
        self.back.sinks = self.sinks.drain(..).map(|(sink, _)| sink.into_inner()).collect();
    }
}

/// The lines of a running command for tokio, read only as they are asked for. Dropping it kills the tree, without
/// waiting.
///
/// As with [`Lines`](crate::Lines), a stderr that is piped and not asked for is read and thrown away while a line is
/// waited for. Each method that gives a line can be dropped and called again without loss.
#[derive(Debug)]
pub struct AsyncLines {
    child: Child,
    stdout: (Option<AsyncStream>, Splitter),
    stderr: (Option<AsyncStream>, Splitter),
    both: bool,
    failed: bool,
    finished: bool,
}

impl AsyncLines {
    async fn start(command: &Command, both: bool) -> Result<AsyncLines, RunError> {
        let mut child = prepare(command, both).spawn_async().await?;
        child.close_stdin();
        let terminal = child.pty.take().map(PtyMaster::into_async);
        let stdout = terminal.or(child.stdout.take().map(ChildStdout::into_async)).transpose()?;
        let stderr = child.stderr.take().map(ChildStderr::into_async).transpose()?;
        let [first, second] = [stdout, stderr].map(|stream| (stream, Splitter::default()));
        Ok(AsyncLines { child, stdout: first, stderr: second, both, failed: false, finished: false })
    }

    /// The command behind the lines.
    #[must_use]
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// The next line of stdout without its ending; `None` at its end, and after an error.
    ///
    /// # Errors
    /// When the line is no UTF-8 or longer than 16 MiB, the output limit is passed, or a read fails.
    pub async fn next_line(&mut self) -> io::Result<Option<String>> {
        let line = match self.next_bytes().await? {
            Some(line) => strict(line).map(Some),
            None => Ok(None),
        };
        self.failed |= line.is_err();
        line
    }

    /// As [`next_line`](Self::next_line), in bytes.
    ///
    /// # Errors
    /// As [`next_line`](Self::next_line), whatever the bytes are.
    pub async fn next_bytes(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            match self.next_of_both().await? {
                Some(Line { source: Source::Stdout, bytes }) => return Ok(Some(bytes)),
                Some(line) => self.child.link().traffic.discard(Which::Stderr, line.bytes.len()),
                None => return Ok(None),
            }
        }
    }

    /// The next line of either stream, if this was started by [`Command::stream_both_async`]; else of stdout.
    ///
    /// # Errors
    /// As [`next_bytes`](Self::next_bytes).
    pub async fn next_of_both(&mut self) -> io::Result<Option<Line>> {
        if self.failed {
            return Ok(None);
        }
        let line = poll_fn(|context| self.poll_line(context)).await;
        self.failed = line.is_err();
        line
    }

    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Line>>> {
        let mut buf = [0; AHEAD];
        let mut pending = [false; 2];
        loop {
            if let Some(bytes) = self.stdout.1.line()? {
                return Poll::Ready(Ok(Some(Line { source: Source::Stdout, bytes })));
            }
            if let Some(bytes) = self.stderr.1.line()? {
                return Poll::Ready(Ok(Some(Line { source: Source::Stderr, bytes })));
            }
            let over = |(stream, splitter): &(Option<AsyncStream>, Splitter)| stream.is_none() || splitter.ended;
            if over(&self.stdout) && (!self.both || over(&self.stderr)) {
                return Poll::Ready(Ok(None));
            }
            for (index, (stream, splitter)) in [&mut self.stdout, &mut self.stderr].into_iter().enumerate() {
                let Some(stream) = stream.as_mut().filter(|_| !splitter.ended) else {
                    pending[index] = true;
                    continue;
                };
                let mut space = ReadBuf::new(&mut buf);
                pending[index] = match Pin::new(stream).poll_read(context, &mut space) {
                    Poll::Pending => true,
                    Poll::Ready(result) => {
                        result?;
                        let bytes = space.filled();
                        if index == 0 || self.both {
                            splitter.push(bytes);
                        } else {
                            splitter.ended = bytes.is_empty();
                            self.child.link().traffic.discard(Which::Stderr, bytes.len());
                        }
                        false
                    }
                };
            }
            if pending == [true; 2] {
                return Poll::Pending;
            }
        }
    }

    /// Waits for the end, throwing away what was not read (and counting it as such), and reports.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub async fn finish(mut self) -> Result<ExitReport, WaitError> {
        let link = Arc::clone(self.child.link());
        link.traffic.discard(Which::Stdout, self.stdout.1.ahead());
        link.traffic.discard(Which::Stderr, self.stderr.1.ahead());
        let streams = [(self.stdout.0.take(), Which::Stdout), (self.stderr.0.take(), Which::Stderr)];
        let streams = streams.into_iter().filter_map(|(stream, which)| Some((stream?.into_counted(), which)));
        let mut capture = Capture::of(streams.collect());
        if let Ok(mut ending) = Ending::new(&link) {
            // A stream that fails is closed, which the command notices.
            let _ = drive(&link, &mut ending, &mut capture).await;
        }
        drop(capture);
        let report = self.child.wait_async().await;
        self.finished = true;
        report
    }
}

impl Drop for AsyncLines {
    fn drop(&mut self) {
        if !self.finished && self.child.link().is_ours() {
            self.child.handle().kill();
        }
    }
}
