//! The client against an engine that asks for whatever it likes.

use super::*;
use berth_api::build::Stat;
use berth_api::build::frame::{self, Decoder, Frame, Kind};

struct Engine {
    socket: UnixStream,
    decoder: Decoder,
    /// Its reading half, with which the client would follow.
    _dir: tempfile::TempDir,
}

impl Engine {
    /// With a client that has a context, a secret and an output.
    fn new() -> (Self, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("context");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("file"), "content").unwrap();
        std::fs::write(root.join("hidden"), "not this").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
        let source = Source::Directory {
            root,
            ignore: Some(berth_build::ignore::Ignore::parse("hidden\n").unwrap()),
        };
        let key = dir.path().join("key");
        std::fs::write(&key, "value").unwrap();
        let out = dir.path().join("out");
        let goods = Goods {
            contexts: BTreeMap::from([("context".to_owned(), source)]),
            secrets: BTreeMap::from([("key".to_owned(), Secret::File(key))]),
            agents: BTreeMap::new(),
            places: vec![Place::Engine, Place::Directory(out.clone())],
            cache_to: Vec::new(),
            cache_from: Vec::new(),
        };
        let (wire, mut reading, socket) = Wire::pair();
        let server = Server::new(wire.clone(), goods);
        std::thread::spawn(move || {
            while let Ok(Some(frame)) = reading.next() {
                if frame.kind == Kind::Message {
                    server.serve(frame.message().unwrap());
                } else {
                    wire.arrived(frame);
                }
            }
            wire.break_off();
        });
        let engine = Self {
            socket,
            decoder: Decoder::default(),
            _dir: dir,
        };
        (engine, out)
    }

    fn ask(&mut self, request: &ToClient) {
        let frame = frame::message(request).unwrap();
        self.socket.write_all(&frame).unwrap();
    }

    fn send(&mut self, kind: Kind, channel: u32, bytes: &[u8]) {
        let frame = frame::encode(kind, channel, bytes).unwrap();
        self.socket.write_all(&frame).unwrap();
    }

    fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let mut bytes = [0; 4096];
            let count = self.socket.read(&mut bytes).unwrap();
            assert!(count > 0, "the client is there");
            self.decoder.push(&bytes[..count]);
        }
    }

    /// All of a channel, or why not.
    fn answer(&mut self, request: &ToClient) -> Result<Vec<u8>, String> {
        self.ask(request);
        let mut all = Vec::new();
        loop {
            let frame = self.next();
            match frame.kind {
                Kind::Data => all.extend_from_slice(&frame.payload),
                Kind::End => return Ok(all),
                Kind::Message => match frame.message().unwrap() {
                    ToEngine::Refused { message, .. } => return Err(message),
                    ToEngine::SecretValue { found: false, .. } => {
                        assert_eq!(self.next().kind, Kind::End);
                        return Err("none of that name".to_owned());
                    }
                    _ => {}
                },
            }
        }
    }
}

fn walk(context: &str) -> ToClient {
    ToClient::Walk {
        context: context.to_owned(),
        channel: 1,
    }
}

fn read(files: &[u32]) -> ToClient {
    ToClient::Read {
        context: "context".to_owned(),
        files: files.to_vec(),
        channel: 2,
    }
}

fn secret(id: &str) -> ToClient {
    ToClient::Secret {
        id: id.to_owned(),
        channel: 3,
    }
}

#[test]
fn files_and_secrets_that_were_announced_are_given_and_no_others() {
    let (mut engine, _) = Engine::new();
    assert!(
        engine
            .answer(&read(&[0]))
            .unwrap_err()
            .contains("was not listed")
    );
    assert!(
        engine
            .answer(&walk("/etc"))
            .unwrap_err()
            .contains("no context")
    );
    let lines = engine.answer(&walk("context")).unwrap();
    let stats: Vec<Stat> = serde_json::Deserializer::from_slice(&lines)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let paths: Vec<_> = stats.iter().map(|stat| stat.path.as_str()).collect();
    assert_eq!(paths, ["file", "link"]);
    assert_eq!(engine.answer(&read(&[0])).unwrap(), b"content");
    for files in [&[1][..], &[2], &[0, 0]] {
        assert!(engine.answer(&read(files)).is_err(), "{files:?}");
    }
    assert_eq!(engine.answer(&secret("key")).unwrap(), b"value");
    assert!(engine.answer(&secret("/etc/shadow")).is_err());
    for request in [
        ToClient::Ssh {
            id: "default".to_owned(),
            channel: 4,
        },
        ToClient::Archive {
            context: "context".to_owned(),
            channel: 4,
        },
        ToClient::CacheIn {
            index: 0,
            channel: 4,
        },
    ] {
        assert!(engine.answer(&request).is_err(), "{request:?}");
    }
}

#[test]
fn outputs_go_to_their_places_only() {
    let (mut engine, out) = Engine::new();
    let output = |index| ToClient::Output { index, channel: 5 };
    for index in [0, 2] {
        assert!(engine.answer(&output(index)).is_err(), "{index}");
    }
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, "made", &b"here"[..])
        .unwrap();
    let tar = builder.into_inner().unwrap();
    engine.ask(&output(1));
    engine.send(Kind::Data, 5, &tar[..700]);
    engine.send(Kind::Data, 5, &tar[700..]);
    engine.send(Kind::End, 5, b"");
    // The client ends its direction when it has it all.
    let frame = engine.next();
    assert_eq!((frame.kind, frame.channel), (Kind::End, 5));
    assert_eq!(std::fs::read_to_string(out.join("made")).unwrap(), "here");
    // One that breaks off is no result.
    engine.ask(&output(1));
    engine.send(Kind::Data, 5, &tar[..100]);
    engine.send(Kind::End, 5, b"");
    let frame = engine.next();
    assert!(matches!(
        frame.message().unwrap(),
        ToEngine::Refused { channel: 5, .. }
    ));
}

#[test]
fn channels_are_used_once_at_a_time() {
    let (mut engine, _) = Engine::new();
    // Waits for its bytes, so the channel stays open.
    engine.ask(&ToClient::Output {
        index: 1,
        channel: 6,
    });
    let again = engine.answer(&ToClient::Walk {
        context: "context".to_owned(),
        channel: 6,
    });
    assert!(again.unwrap_err().contains("in use"));
    let none = engine.answer(&ToClient::Walk {
        context: "context".to_owned(),
        channel: 0,
    });
    assert!(none.is_err());
}
