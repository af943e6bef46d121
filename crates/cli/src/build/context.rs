//! What is built: the main context, the named ones, and the Dockerfile.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use berth_api::build::ContextSource;
use berth_build::ignore::Ignore;
use sha2::{Digest as _, Sha256};

use super::layout;
use crate::failure::path_error;
use crate::flags::Parsed;
use crate::reference::Reference;

/// Name of the main context.
const MAIN: &str = "context";
/// Bytes of a Dockerfile, which travels in one message.
const MAX_DOCKERFILE: u64 = 768 * 1024;
const MAX_IGNORE: u64 = 1024 * 1024;

/// What this client serves of a context. Nothing else of this machine is given.
#[derive(Debug)]
pub(super) enum Source {
    Directory {
        root: PathBuf,
        ignore: Option<Ignore>,
    },
    /// A tar stream on stdin, of which these bytes were read.
    Stdin(Vec<u8>),
    /// A directory with an OCI layout.
    Layout(PathBuf),
}

#[derive(Debug, Default)]
pub(super) struct Contexts {
    /// As the engine is told of them.
    pub(super) told: BTreeMap<String, ContextSource>,
    pub(super) sources: BTreeMap<String, Source>,
    /// Its text, unless it is in a context that only the engine has.
    pub(super) dockerfile: Option<String>,
    /// Shown with errors, or where it is in the context.
    pub(super) dockerfile_name: String,
    /// Where it is for people: with `--check`.
    pub(super) shown_path: String,
}

impl Contexts {
    pub(super) fn find(args: &Parsed) -> Result<Self, String> {
        let path = args.words.first().map_or("", String::as_str);
        let file = args.get("file").unwrap_or_default();
        if file.starts_with("http://") || file.starts_with("https://") {
            return Err(format!(
                "a Dockerfile from an address is not supported yet: {file}"
            ));
        }
        let mut contexts = Self {
            dockerfile_name: "Dockerfile".to_owned(),
            shown_path: "Dockerfile".to_owned(),
            ..Self::default()
        };
        if path == "-" {
            contexts.take_stdin(file, &mut std::io::stdin().lock())?;
        } else if Path::new(path).is_dir() {
            contexts.take_directory(Path::new(path), file)?;
        } else if is_remote(path) {
            contexts.take_remote(path, file)?;
        } else {
            return Err(format!(
                "unable to prepare context: path {path:?} not found"
            ));
        }
        for text in args.list("build-context") {
            contexts.named(&text)?;
        }
        Ok(contexts)
    }

    /// An archive, or a Dockerfile that needs no files.
    fn take_stdin(&mut self, file: &str, stdin: &mut dyn Read) -> Result<(), String> {
        if file == "-" {
            return Err(
                "invalid argument: can't use stdin for both build context and dockerfile"
                    .to_owned(),
            );
        }
        let mut head = Vec::new();
        let failed = |error| format!("failed to peek context header from STDIN: {error}");
        stdin.take(1024).read_to_end(&mut head).map_err(failed)?;
        if is_archive(&head) {
            if !file.is_empty() {
                self.dockerfile_name = file.to_owned();
                self.shown_path = file.to_owned();
            }
            self.told.insert(MAIN.to_owned(), ContextSource::Archive);
            self.sources.insert(MAIN.to_owned(), Source::Stdin(head));
            return Ok(());
        }
        if !file.is_empty() {
            return Err(
                "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles"
                    .to_owned(),
            );
        }
        let rest = head.as_slice().chain(stdin);
        self.dockerfile = Some(text(rest, "Dockerfile", MAX_DOCKERFILE)?);
        self.told.insert(MAIN.to_owned(), ContextSource::Empty);
        Ok(())
    }

    fn take_directory(&mut self, root: &Path, file: &str) -> Result<(), String> {
        let beside = match file {
            "-" => {
                let stdin = std::io::stdin().lock();
                self.dockerfile = Some(text(stdin, "Dockerfile", MAX_DOCKERFILE)?);
                None
            }
            "" => {
                let path = root.join("Dockerfile");
                let lower = root.join("dockerfile");
                Some(if !path.exists() && lower.exists() {
                    lower
                } else {
                    path
                })
            }
            path => Some(PathBuf::from(path)),
        };
        let mut names = vec![root.join(".dockerignore")];
        if let Some(path) = &beside {
            self.take_dockerfile(path)?;
            let mut own = path.clone().into_os_string();
            own.push(".dockerignore");
            names.insert(0, own.into());
        }
        let source = directory(root, &names)?;
        self.insert_directory(MAIN, root, source)
    }

    fn take_remote(&mut self, url: &str, file: &str) -> Result<(), String> {
        if file == "-" {
            let stdin = std::io::stdin().lock();
            self.dockerfile = Some(text(stdin, "Dockerfile", MAX_DOCKERFILE)?);
        } else if file.starts_with('/') {
            self.take_dockerfile(Path::new(file))?;
        } else if !file.is_empty() {
            self.dockerfile_name = file.to_owned();
            self.shown_path = file.to_owned();
        }
        let url = url.to_owned();
        self.told
            .insert(MAIN.to_owned(), ContextSource::Remote { url });
        Ok(())
    }

    fn take_dockerfile(&mut self, path: &Path) -> Result<(), String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let failed = |error| {
            format!(
                "failed to solve: failed to read dockerfile: {}",
                path_error("open", &name, &error)
            )
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        self.dockerfile = Some(text(file, &name, MAX_DOCKERFILE)?);
        let shown = path.display().to_string();
        self.shown_path = shown.strip_prefix("./").unwrap_or(&shown).to_owned();
        self.dockerfile_name = name.into_owned();
        Ok(())
    }

    /// "name=directory", "name=docker-image://…" and so on.
    fn named(&mut self, given: &str) -> Result<(), String> {
        let (name, value) = given
            .split_once('=')
            .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            .ok_or_else(|| format!("invalid context value: {given}, expected key=value"))?;
        let name = Reference::parse(name)
            .map_err(|why| format!("invalid context name {name}: {why}"))?
            .familiar();
        let name = name.strip_suffix(":latest").unwrap_or(&name).to_owned();
        if name == MAIN || self.told.contains_key(&name) {
            return Err(format!("build context {name:?} is given twice"));
        }
        if let Some(reference) = value.strip_prefix("docker-image://") {
            Reference::parse(reference)
                .map_err(|why| format!("invalid image of build context {name}: {why}"))?;
            let reference = reference.to_owned();
            self.told.insert(name, ContextSource::Image { reference });
        } else if let Some(place) = value.strip_prefix("oci-layout://") {
            let (root, digest) = layout::find(place)
                .map_err(|why| format!("failed to get build context {name}: {why}"))?;
            self.told
                .insert(name.clone(), ContextSource::Layout { digest });
            self.sources.insert(name, Source::Layout(root));
        } else if Path::new(value).is_dir() {
            let root = Path::new(value);
            let source = directory(root, &[root.join(".dockerignore")])?;
            self.insert_directory(&name, root, source)?;
        } else if is_remote(value) {
            let url = value.to_owned();
            self.told.insert(name, ContextSource::Remote { url });
        } else {
            let why = match std::fs::metadata(value) {
                Ok(_) => format!("{value} is no directory"),
                Err(error) => path_error("stat", value, &error),
            };
            return Err(format!("failed to get build context {name}: {why}"));
        }
        Ok(())
    }

    fn insert_directory(&mut self, name: &str, root: &Path, source: Source) -> Result<(), String> {
        let identity = identity(root)
            .map_err(|error| path_error("open", &root.display().to_string(), &error))?;
        self.told
            .insert(name.to_owned(), ContextSource::Client { identity });
        self.sources.insert(name.to_owned(), source);
        Ok(())
    }
}

/// With the first of the ignore files that is there.
fn directory(root: &Path, ignore_files: &[PathBuf]) -> Result<Source, String> {
    let mut ignore = None;
    for path in ignore_files {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(path_error("open", &path.display().to_string(), &error)),
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let read = Ignore::parse(&text(file, &name, MAX_IGNORE)?)
            .map_err(|why| format!("{}: {why}", path.display()))?;
        ignore = Some(read);
        break;
    }
    Ok(Source::Directory {
        root: root.to_owned(),
        ignore,
    })
}

fn text(input: impl Read, name: &str, most: u64) -> Result<String, String> {
    let mut bytes = Vec::new();
    input
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| path_error("read", name, &error))?;
    if bytes.len() as u64 > most {
        return Err(format!("{name} is longer than {most} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| format!("{name} is not valid UTF-8"))
}

/// The same for the same directory of the same machine and user.
fn identity(root: &Path) -> std::io::Result<String> {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let node = rustix::system::uname();
    let mut hash = Sha256::new();
    for part in [
        machine.trim().as_bytes(),
        node.nodename().to_bytes(),
        rustix::process::getuid().as_raw().to_string().as_bytes(),
        std::os::unix::ffi::OsStrExt::as_bytes(root.canonicalize()?.as_os_str()),
    ] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let hex = hash.finalize();
    Ok(hex.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What the engine fetches.
fn is_remote(text: &str) -> bool {
    [
        "http://",
        "https://",
        "git://",
        "ssh://",
        "git@",
        "github.com/",
    ]
    .iter()
    .any(|prefix| text.starts_with(prefix))
}

/// A tar stream, plain or compressed, by its first bytes.
fn is_archive(head: &[u8]) -> bool {
    const MAGIC: [&[u8]; 4] = [
        b"\x1f\x8b\x08",
        b"BZh",
        b"\xfd7zXZ\x00",
        b"\x28\xb5\x2f\xfd",
    ];
    MAGIC.iter().any(|magic| head.starts_with(magic)) || is_tar(head)
}

/// Also tar files of the oldest kind, which only their checksum shows.
fn is_tar(head: &[u8]) -> bool {
    let Some(block) = head.get(..512) else {
        return false;
    };
    let sum: u64 = (block.iter().enumerate())
        .map(|(at, &byte)| {
            if (148..156).contains(&at) {
                32
            } else {
                u64::from(byte)
            }
        })
        .sum();
    let said = block[148..156]
        .iter()
        .skip_while(|byte| **byte == b' ')
        .take_while(|byte| (b'0'..=b'7').contains(*byte))
        .fold(0, |sum, digit| sum * 8 + u64::from(digit - b'0'));
    // A stream of no entries begins with zeros.
    sum == said || block.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    fn find(words: &[&str]) -> Result<Contexts, String> {
        let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
        let build = tree::find("build").unwrap();
        Contexts::find(&Parsed::parse(build.flags, &words, false).unwrap())
    }

    fn tar_of(name: &str) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        builder.append_data(&mut header, name, &b""[..]).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn stdin_is_an_archive_or_a_dockerfile() {
        let mut contexts = Contexts::default();
        let text = b"FROM scratch\n";
        contexts.take_stdin("", &mut &text[..]).unwrap();
        assert_eq!(contexts.dockerfile.as_deref(), Some("FROM scratch\n"));
        assert_eq!(contexts.told[MAIN], ContextSource::Empty);
        for archive in [tar_of("a"), vec![0; 1024], b"\x1f\x8b\x08rest".to_vec()] {
            let mut contexts = Contexts::default();
            contexts
                .take_stdin("sub/Df", &mut archive.as_slice())
                .unwrap();
            assert_eq!(contexts.told[MAIN], ContextSource::Archive);
            assert_eq!(contexts.dockerfile_name, "sub/Df");
        }
        let mut contexts = Contexts::default();
        let error = contexts.take_stdin("Df", &mut &text[..]).unwrap_err();
        assert!(error.starts_with("ambiguous Dockerfile source"), "{error}");
        assert!(contexts.take_stdin("-", &mut &text[..]).is_err());
    }

    #[test]
    fn the_dockerfiles_own_ignore_file_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("dockerfile", "FROM lower\n");
        write(".dockerignore", "a\n");
        let root = dir.path().to_str().unwrap();
        let ignored = |contexts: &Contexts, name: &str| match &contexts.sources[MAIN] {
            Source::Directory { ignore, .. } => ignore
                .as_ref()
                .is_some_and(|ignore| ignore.is_ignored(&[name])),
            _ => panic!("no directory"),
        };
        let plain = find(&[root]).unwrap();
        assert_eq!(plain.dockerfile.as_deref(), Some("FROM lower\n"));
        assert!(ignored(&plain, "a") && !ignored(&plain, "b"));
        write("Df", "FROM scratch\n");
        write("Df.dockerignore", "b\n");
        let own = find(&[root, "-f", &format!("{root}/Df")]).unwrap();
        assert_eq!(own.dockerfile_name, "Df");
        assert!(!ignored(&own, "a") && ignored(&own, "b"));
        let ContextSource::Client { identity } = &own.told[MAIN] else {
            panic!("no directory");
        };
        assert_eq!(identity.len(), 64);
        let named = find(&[
            root,
            "--build-context=x=docker-image://busybox",
            &format!("--build-context=alpine:latest={root}"),
            "--build-context=y=https://example.com/a.git",
        ])
        .unwrap();
        assert!(matches!(named.told["x"], ContextSource::Image { .. }));
        assert!(matches!(named.told["alpine"], ContextSource::Client { .. }));
        assert!(matches!(named.told["y"], ContextSource::Remote { .. }));
    }

    #[test]
    fn mistakes() {
        for (words, why) in [
            (
                &["/no/such"][..],
                "unable to prepare context: path \"/no/such\" not found",
            ),
            (
                &["/", "-f", "/no/Df"],
                "failed to solve: failed to read dockerfile: open Df: no such file or directory",
            ),
            (
                &["/", "-f", "/dev/null", "--build-context", "x"],
                "invalid context value: x, expected key=value",
            ),
            (
                &["/", "-f", "/dev/null", "--build-context", "x=/no"],
                "failed to get build context x: stat /no: no such file or directory",
            ),
        ] {
            assert_eq!(find(words).unwrap_err(), why);
        }
    }
}
