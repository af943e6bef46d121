//! Outputs that the client gets as a stream: archives and files.

use std::cell::Cell;
use std::io::Write;
use std::os::fd::{AsFd as _, OwnedFd};

use berth_api::Error;
use berth_build::solve::Worker;
use berth_build::tree::{Chain, Layer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Platformed;
use super::steps::Steps;
use crate::Download;
use crate::archive::Archive;
use crate::build::{Ask, Peer};
use crate::download::download;

/// The files of one platform.
pub(super) struct Tree {
    /// "linux/amd64"
    platform: String,
    /// None = scratch.
    root: Option<OwnedFd>,
}

/// Sends what `work` writes; returns when the client has it all.
pub(super) async fn send<F>(peer: &dyn Peer, index: usize, work: F) -> Result<(), Error>
where
    F: FnOnce(&mut dyn Write) -> Result<(), Error> + Send + 'static,
{
    send_to(peer, Ask::Output { index }, work).await
}

/// The same, as the answer to what is asked.
pub(in crate::build) async fn send_to<F>(peer: &dyn Peer, ask: Ask, work: F) -> Result<(), Error>
where
    F: FnOnce(&mut dyn Write) -> Result<(), Error> + Send + 'static,
{
    let mut stream = peer.ask(ask).await?;
    let Download { first, mut chunks } = download("build-output", work).await?;
    let gone =
        |error: std::io::Error| Error::system(format!("send the output to the client: {error}"));
    stream.write_all(&first).await.map_err(gone)?;
    while let Some(chunk) = chunks.recv().await {
        stream.write_all(&chunk?).await.map_err(gone)?;
    }
    stream.shutdown().await.map_err(gone)?;
    let mut answer = [0; 512];
    while stream.read(&mut answer).await.map_err(gone)? > 0 {}
    Ok(())
}

/// Root filesystems of all platforms, as they are in the images: with the
/// files' times of the canonical layers.
pub(super) async fn trees(worker: &dyn Worker, results: &[Platformed]) -> Result<Vec<Tree>, Error> {
    let mut trees = Vec::new();
    for result in results {
        let canonical = |layer: &Layer| Layer {
            stored: layer.digest.clone(),
            ..layer.clone()
        };
        let chain: Chain = result.chain.iter().map(canonical).collect();
        let root = match chain.is_empty() {
            true => None,
            false => {
                let mounted = worker.mount(&chain).await;
                Some(mounted.map_err(|error| Error::system(error.to_string()))?)
            }
        };
        trees.push(Tree {
            platform: result.plan.platform.to_string(),
            root,
        });
    }
    Ok(trees)
}

/// All in one tar stream: each platform in a directory of its own, or all
/// joined. `epoch`: the time of all files, seconds since 1970.
pub(super) fn write(
    trees: &[Tree],
    split: bool,
    epoch: Option<i64>,
    steps: &Steps,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let written = Cell::new(0);
    let mut out = Counted {
        out,
        written: &written,
    };
    let mut archive = Archive::new(&mut out, epoch);
    if !split && trees.len() > 1 {
        archive = archive.joining();
    }
    for tree in trees {
        let copying = match trees.len() {
            1 => "copying files".to_owned(),
            _ => format!("copying files {}", tree.platform),
        };
        let (copying, before) = (steps.part(&copying), written.get());
        let mut prefix = String::new();
        if split {
            prefix = format!("{}/", tree.platform.replace('/', "_"));
            archive.directory(prefix.as_bytes(), berth_build::FILE_TIME)?;
        }
        if let Some(root) = &tree.root {
            archive.tree(root.as_fd(), prefix.as_bytes())?;
        }
        copying.ended(written.get() - before);
    }
    archive.finish()
}

/// Counts the bytes on their way.
struct Counted<'a> {
    out: &'a mut dyn Write,
    written: &'a Cell<u64>,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.written.set(self.written.get() + n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Mutex;

    use berth_build::progress::{Event, Sink};
    use tokio::io::DuplexStream;

    use super::*;

    /// A client that takes an output: all of it, or only the first bytes.
    struct Client {
        got: std::sync::Arc<Mutex<Vec<u8>>>,
        leaves: bool,
    }

    impl Peer for Client {
        fn ask(
            &self,
            ask: Ask,
        ) -> Pin<Box<dyn Future<Output = Result<DuplexStream, Error>> + Send + '_>> {
            assert_eq!(ask, Ask::Output { index: 3 });
            Box::pin(async {
                let (ours, mut theirs) = tokio::io::duplex(4096);
                let (got, leaves) = (self.got.clone(), self.leaves);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 1000];
                    loop {
                        let n = theirs.read(&mut buffer).await.unwrap();
                        got.lock().unwrap().extend_from_slice(&buffer[..n]);
                        if n == 0 || leaves {
                            return;
                        }
                    }
                });
                Ok(ours)
            })
        }
    }

    #[tokio::test]
    async fn the_client_has_it_all_or_it_failed() {
        let got = std::sync::Arc::default();
        let client = |leaves| Client {
            got: std::sync::Arc::clone(&got),
            leaves,
        };
        let data = |out: &mut dyn Write| {
            out.write_all(&vec![7; 3_000_000])
                .map_err(|error| Error::system(error.to_string()))
        };
        send(&client(false), 3, data).await.unwrap();
        assert_eq!(got.lock().unwrap().len(), 3_000_000);
        let error = send(&client(true), 3, data).await.unwrap_err();
        assert!(
            error.message.contains("send the output to the client"),
            "{error}"
        );
        let broken = send(&client(false), 3, |_| Err(Error::system("damaged"))).await;
        assert_eq!(broken.unwrap_err().message, "damaged");
    }

    #[test]
    fn platforms_have_their_directories_and_scratch_is_empty() {
        let trees = |names: &[&str]| -> Vec<Tree> {
            let tree = |name: &&str| Tree {
                platform: (*name).to_owned(),
                root: None,
            };
            names.iter().map(tree).collect()
        };
        let told: std::sync::Arc<Mutex<Vec<Event>>> = std::sync::Arc::default();
        let tell = told.clone();
        let sink: Sink = std::sync::Arc::new(move |event| tell.lock().unwrap().push(event));
        let steps = Steps::begin(&sink, 0, "x");
        let mut out = Vec::new();
        let both = trees(&["linux/amd64", "linux/arm/v7"]);
        write(&both, true, None, &steps, &mut out).unwrap();
        let copied = told.lock().unwrap().iter().any(|event| {
            matches!(event, Event::Status { name, current: 512, done: true, .. } if name == "copying files linux/arm/v7")
        });
        assert!(copied, "{told:?}");
        let mut archive = tar::Archive::new(out.as_slice());
        let names: Vec<_> = (archive.entries().unwrap())
            .map(|entry| {
                let entry = entry.unwrap();
                let time = entry.header().mtime().unwrap();
                assert_eq!(time, berth_build::FILE_TIME.unsigned_abs());
                entry.path().unwrap().display().to_string()
            })
            .collect();
        assert_eq!(names, ["linux_amd64/", "linux_arm_v7/"]);
        let mut empty = Vec::new();
        let one = trees(&["linux/amd64"]);
        write(&one, false, Some(0), &steps, &mut empty).unwrap();
        assert_eq!(empty, [0; 1024]);
    }
}
