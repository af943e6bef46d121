//! A blocking connection to the bus of systemd's manager (D-Bus specification,
//! "Authentication Protocol" and "Message Bus").

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::Failure;
use super::wire::{self, Call, Incoming, Value};

/// How long an answer may take; as long as runc waits for a unit.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the bus of the whole system listens unless the environment says else.
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// systemd itself, without a bus; for root.
const PRIVATE: &str = "unix:path=/run/systemd/private";

/// Longest line of the authentication, and most lines of it.
const MAX_LINE: usize = 1024;
const MAX_LINES: usize = 8;
/// Signals that are kept while an answer is waited for.
const MAX_SIGNALS: usize = 256;
/// Bytes of one: it names a job and a unit.
const MAX_SIGNAL: usize = 4096;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const SYSTEMD_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// A connection to the manager of the system or of a user.
#[derive(Debug)]
pub(super) struct Bus {
    socket: UnixStream,
    serial: u32,
    /// No bus lies between: nobody routes, so nobody is named.
    direct: bool,
    deadline: Instant,
    /// JobRemoved that came before its job's number was known.
    signals: Vec<Incoming>,
}

impl Bus {
    /// As runc finds it: the system's bus, for root systemd itself when there is
    /// none; a user's by the environment of the session.
    pub(super) fn connect(user: bool) -> Result<Self, Failure> {
        let result = if user {
            user_address().and_then(|address| Self::open(&address, false))
        } else {
            let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS")
                .ok()
                .filter(|address| !address.is_empty());
            let address = address.as_deref().unwrap_or(SYSTEM_BUS);
            match Self::open(address, false) {
                Err(error) if rustix::process::geteuid().is_root() => {
                    Self::open(PRIVATE, true).map_err(|_| error)
                }
                result => result,
            }
        };
        result.map_err(|error| {
            Failure::Transport(format!(
                "failed to connect to dbus (hint: for rootless containers, maybe you need to \
                 install dbus-user-session package): {error}"
            ))
        })
    }

    fn open(addresses: &str, direct: bool) -> Result<Self, Failure> {
        let mut failure = Failure::Transport(format!("no usable address in {addresses:?}"));
        // The first that answers, as the specification has it.
        for address in addresses.split(';') {
            let Some(name) = parse_address(address) else {
                continue;
            };
            match Self::open_one(&name, direct) {
                Ok(bus) => return Ok(bus),
                Err(error) => failure = Failure::Transport(format!("{address}: {error}")),
            }
        }
        Err(failure)
    }

    fn open_one(name: &Name, direct: bool) -> Result<Self, Failure> {
        let address = match name {
            Name::Path(path) => SocketAddrUnix::new(path.as_slice()),
            Name::Abstract(name) => SocketAddrUnix::new_abstract_name(name),
        }?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // Holds for the connecting as well.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        rustix::net::connect(&socket, &address)?;
        let mut bus = Self {
            socket: socket.into(),
            serial: 0,
            direct,
            deadline: Instant::now() + PATIENCE,
            signals: Vec::new(),
        };
        bus.authenticate()?;
        if !direct {
            bus.call_bus("Hello", &[])?;
        }
        Ok(bus)
    }

    /// EXTERNAL without a name: we are who the kernel says, also in a user
    /// namespace. All in one write; the answers follow.
    fn authenticate(&mut self) -> Result<(), Failure> {
        self.socket
            .write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
            .map_err(|error| transport(&error))?;
        for _ in 0..MAX_LINES {
            let line = self.read_line()?;
            if line == "DATA" || line.starts_with("DATA ") {
                continue;
            }
            if line.starts_with("OK ") {
                return Ok(());
            }
            return Err(Failure::Transport(format!(
                "the bus did not accept us: {line:?}"
            )));
        }
        Err(Failure::Transport("the bus did not accept us".into()))
    }

    fn read_line(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() > MAX_LINE {
                return Err(Failure::Transport("the bus sent a line without end".into()));
            }
            // One by one: what follows the line is not ours to read yet.
            let mut byte = [0];
            self.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        line.truncate(line.len() - 2);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn read_exact(&mut self, mut buffer: &mut [u8]) -> Result<(), Failure> {
        while !buffer.is_empty() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::Timeout);
            }
            self.socket
                .set_read_timeout(Some(left))
                .map_err(|error| transport(&error))?;
            match self.socket.read(buffer) {
                Ok(0) => return Err(Failure::Transport("the bus closed the connection".into())),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(Failure::Timeout);
                }
                Err(error) => return Err(transport(&error)),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Incoming, Failure> {
        let mut message = vec![0; wire::FIXED_HEADER];
        self.read_exact(&mut message)?;
        let length = wire::length(&message)?;
        message.resize(length, 0);
        self.read_exact(&mut message[wire::FIXED_HEADER..])?;
        wire::decode(&message)
    }

    /// A method of systemd's manager.
    pub(super) fn call(&mut self, member: &str, body: &[Value]) -> Result<Incoming, Failure> {
        self.call_object(MANAGER, member, body)
    }

    fn call_object(
        &mut self,
        interface: &str,
        member: &str,
        body: &[Value],
    ) -> Result<Incoming, Failure> {
        self.send(&Call {
            destination: (!self.direct).then_some(SYSTEMD),
            path: SYSTEMD_PATH,
            interface,
            member,
            body,
        })
    }

    /// A method of the bus itself.
    fn call_bus(&mut self, member: &str, body: &[Value]) -> Result<Incoming, Failure> {
        self.send(&Call {
            destination: Some("org.freedesktop.DBus"),
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member,
            body,
        })
    }

    fn send(&mut self, call: &Call<'_>) -> Result<Incoming, Failure> {
        self.serial += 1;
        self.deadline = Instant::now() + PATIENCE;
        self.socket
            .write_all(&call.encode(self.serial))
            .map_err(|error| transport(&error))?;
        loop {
            let message = self.receive()?;
            match message.kind {
                2 if message.reply_to == self.serial => return Ok(message),
                3 if message.reply_to == self.serial => {
                    let text = if message.signature.starts_with('s') {
                        message.reader().text()?
                    } else {
                        String::new()
                    };
                    return Err(Failure::Answer {
                        name: message.error,
                        text,
                    });
                }
                // Anybody may send some: few, and not long.
                4 if message.member == "JobRemoved"
                    && message.body.len() <= MAX_SIGNAL
                    && self.signals.len() < MAX_SIGNALS =>
                {
                    self.signals.push(message);
                }
                _ => {}
            }
        }
    }

    /// A property of the manager that is a text.
    pub(super) fn property(&mut self, name: &str) -> Result<String, Failure> {
        let body = [Value::Text(MANAGER.into()), Value::Text(name.into())];
        let answer = self.call_object("org.freedesktop.DBus.Properties", "Get", &body)?;
        let mut reader = answer.reader();
        if answer.signature != "v" || reader.signature()? != "s" {
            return Err(Failure::Transport(format!(
                "systemd's property {name} is no text"
            )));
        }
        reader.text()
    }

    /// Calls a method that begins a job for `unit`, and returns the job's result:
    /// "done", "failed", "timeout", "canceled", …
    pub(super) fn job(
        &mut self,
        member: &str,
        unit: &str,
        body: &[Value],
    ) -> Result<String, Failure> {
        if !self.direct {
            let rule = format!(
                "type='signal',sender='{SYSTEMD}',path='{SYSTEMD_PATH}',\
                 interface='{MANAGER}',member='JobRemoved',arg2='{unit}'"
            );
            self.call_bus("AddMatch", &[Value::Text(rule)])?;
        }
        self.signals.clear();
        let answer = self.call(member, body)?;
        let job = answer.reader().text()?;
        let early = std::mem::take(&mut self.signals);
        let mut early = early.into_iter();
        loop {
            let signal = match early.next() {
                Some(signal) => signal,
                None => self.receive()?,
            };
            // Anybody on the bus may send us a signal; only systemd's counts.
            if signal.kind != 4 || signal.member != "JobRemoved" || signal.sender != answer.sender {
                continue;
            }
            let mut reader = signal.reader();
            reader.u32()?;
            if reader.text()? == job {
                reader.text()?;
                return reader.text();
            }
        }
    }
}

fn transport(error: &std::io::Error) -> Failure {
    if error.kind() == ErrorKind::WouldBlock {
        Failure::Timeout
    } else {
        Failure::Transport(error.to_string())
    }
}

/// Where a user's own bus is: `DBUS_SESSION_BUS_ADDRESS`, `$XDG_RUNTIME_DIR/bus`.
fn user_address() -> Result<String, Failure> {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    if let Some(address) = variable("DBUS_SESSION_BUS_ADDRESS") {
        return Ok(address);
    }
    if let Some(dir) = variable("XDG_RUNTIME_DIR") {
        let path = format!("{dir}/bus");
        if std::path::Path::new(&path).exists() {
            return Ok(format!("unix:path={}", escape(&path)));
        }
    }
    Err(Failure::Transport(
        "could not detect DBUS_SESSION_BUS_ADDRESS from the environment; make sure you have \
         installed the dbus-user-session or dbus-daemon package; note you may need to re-login"
            .into(),
    ))
}

fn escape(path: &str) -> String {
    let mut escaped = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_/.\\".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped += &format!("%{byte:02x}");
        }
    }
    escaped
}

#[derive(Debug, PartialEq, Eq)]
enum Name {
    Path(Vec<u8>),
    Abstract(Vec<u8>),
}

/// `unix:path=…` or `unix:abstract=…`; other kinds are not for local managers.
fn parse_address(address: &str) -> Option<Name> {
    address
        .strip_prefix("unix:")?
        .split(',')
        .find_map(|pair| match pair.split_once('=')? {
            ("path", value) => unescape(value).map(Name::Path),
            ("abstract", value) => unescape(value).map(Name::Abstract),
            _ => None,
        })
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        plain.push(if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            (digit()? * 16 + digit()?) as u8
        } else {
            byte
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_sockets() {
        assert_eq!(
            parse_address("unix:path=/run/user/1000/bus,guid=0a"),
            Some(Name::Path(b"/run/user/1000/bus".to_vec()))
        );
        assert_eq!(
            parse_address("unix:guid=0a,abstract=/tmp/a%2cb"),
            Some(Name::Abstract(b"/tmp/a,b".to_vec()))
        );
        for other in ["tcp:host=x", "unix:tmpdir=/tmp", "unix:path=%4", "", "unix"] {
            assert_eq!(parse_address(other), None, "{other}");
        }
        assert_eq!(escape("/a b/ü"), "/a%20b/%c3%bc");
    }

    /// A bus that plays a part: what it says to which line or call.
    fn play(part: impl FnOnce(UnixStream) + Send + 'static) -> Bus {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || part(theirs));
        Bus {
            socket: ours,
            serial: 0,
            direct: true,
            deadline: Instant::now() + PATIENCE,
            signals: Vec::new(),
        }
    }

    fn read_call(socket: &mut UnixStream) -> Incoming {
        let mut bytes = vec![0; wire::FIXED_HEADER];
        socket.read_exact(&mut bytes).unwrap();
        bytes.resize(wire::length(&bytes).unwrap(), 0);
        socket.read_exact(&mut bytes[wire::FIXED_HEADER..]).unwrap();
        wire::decode(&bytes).unwrap()
    }

    /// A little-endian message with these header fields and body.
    fn message(kind: u8, list: &[Vec<u8>], body: &[u8]) -> Vec<u8> {
        let mut fields: Vec<u8> = Vec::new();
        for field in list {
            fields.resize(fields.len().next_multiple_of(8), 0);
            fields.extend(field);
        }
        let mut bytes = vec![b'l', kind, 0, 1];
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(7_u32.to_le_bytes());
        bytes.extend((fields.len() as u32).to_le_bytes());
        bytes.extend(&fields);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(body);
        bytes
    }

    fn text_field(code: u8, text: &str) -> Vec<u8> {
        let mut bytes = vec![code, 1, b's', 0];
        bytes.extend(text_bytes(text));
        bytes
    }

    fn text_bytes(text: &str) -> Vec<u8> {
        let mut bytes = (text.len() as u32).to_le_bytes().to_vec();
        bytes.extend(text.bytes());
        bytes.push(0);
        bytes
    }

    fn reply_field(serial: u32) -> Vec<u8> {
        let mut bytes = vec![5, 1, b'u', 0];
        bytes.extend(serial.to_le_bytes());
        bytes
    }

    fn removed(sender: &str, job: &str, result: &str) -> Vec<u8> {
        let mut body = 1_u32.to_le_bytes().to_vec();
        for text in [job, "x.scope", result] {
            body.resize(body.len().next_multiple_of(4), 0);
            body.extend(text_bytes(text));
        }
        let fields = [text_field(3, "JobRemoved"), text_field(7, sender)];
        message(4, &fields, &body)
    }

    #[test]
    fn a_job_is_waited_for_and_only_systemd_can_end_it() {
        let mut bus = play(|mut socket| {
            let call = read_call(&mut socket);
            assert_eq!(call.member, "StartTransientUnit");
            let fields = [reply_field(1), text_field(7, ":1.1")];
            // Before the answer, from a stranger, about another job.
            for bytes in [
                removed(":1.66", "/job/5", "failed"),
                message(2, &fields, &text_bytes("/job/5")),
                removed(":1.66", "/job/5", "failed"),
                removed(":1.1", "/job/4", "failed"),
                removed(":1.1", "/job/5", "done"),
            ] {
                socket.write_all(&bytes).unwrap();
            }
        });
        let result = bus.job("StartTransientUnit", "x.scope", &[]).unwrap();
        assert_eq!(result, "done");
    }

    #[test]
    fn errors_have_a_name_and_a_text() {
        let mut bus = play(|mut socket| {
            read_call(&mut socket);
            let signature = vec![8, 1, b'g', 0, 1, b's', 0];
            let fields = [reply_field(1), text_field(4, "org.example.No"), signature];
            socket
                .write_all(&message(3, &fields, &text_bytes("it may not be")))
                .unwrap();
        });
        match bus.call("Anything", &[]).unwrap_err() {
            Failure::Answer { name, text } => {
                assert_eq!(
                    (name.as_str(), text.as_str()),
                    ("org.example.No", "it may not be")
                );
            }
            other => panic!("{other}"),
        }
        assert!(bus.call("Anything", &[]).is_err(), "the other end is gone");
    }

    #[test]
    fn authentication_by_the_kernels_word() {
        for (answer, accepted) in [
            ("DATA\r\nOK 0123\r\n", true),
            ("DATA \r\nOK 0123\r\n", true),
            ("REJECTED EXTERNAL\r\n", false),
            (&"DATA\r\n".repeat(20), false),
            (&"x".repeat(5000), false),
            ("", false),
        ] {
            let answer = answer.to_owned();
            let mut bus = play(move |mut socket| {
                let mut said = [0; 29];
                socket.read_exact(&mut said).unwrap();
                assert_eq!(&said[..16], b"\0AUTH EXTERNAL\r\n");
                let _ = socket.write_all(answer.as_bytes());
            });
            assert_eq!(bus.authenticate().is_ok(), accepted);
        }
    }
}
