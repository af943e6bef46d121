//! The `hello-world` image that ships with berth, made here byte by byte: a
//! layer with one static program of a few instructions that prints a message.

use oci_spec::image::{
    ConfigBuilder, HistoryBuilder, ImageConfiguration, ImageConfigurationBuilder, Os,
};

use crate::error::{Error, Result, invalid};
use crate::manifest::host_architecture;
use crate::{Image, Reference, Store};

const NAME: &str = "hello-world:latest";
const PROGRAM: &str = "hello";

/// Fixed, so that the image has the same digest everywhere.
const CREATED: &str = "2026-01-01T00:00:00Z";
const CREATED_SECONDS: u64 = 1_767_225_600;

const MESSAGE: &str = "
Hello from berth!
This message shows that your installation works.

What happened to bring it to you:
 1. The berth client asked the berth engine to run a container.
 2. The engine took the image \"hello-world\", which ships with berth, from its
    store and laid a writable layer over it.
 3. The runtime made the container: namespaces, a cgroup, a root filesystem of
    its own, and in it the one small program that prints these lines.
 4. The engine passed the program's output to the client, and so to you.

Something bigger next? Bring a root filesystem of your own:
 $ tar -C rootfs -c . | berth import - mine
 $ berth run -it mine sh

";

/// Where the file is mapped: the usual place of a static program.
const BASE: u64 = 0x40_0000;
const HEADERS: usize = 64 + 56;

impl Store {
    /// The `hello-world` image that ships with berth, loaded under its name.
    pub fn load_hello_world(&self) -> Result<Image> {
        let archive = layer().map_err(Error::io("make image", NAME))?;
        self.import(
            &mut archive.as_slice(),
            config()?,
            serde_json::Map::new(),
            Some(&Reference::parse(NAME)?),
        )
    }
}

fn config() -> Result<ImageConfiguration> {
    let failed = |error| Error::Invalid(format!("configuration of {NAME}: {error}"));
    let config = ConfigBuilder::default()
        .cmd(vec![format!("/{PROGRAM}")])
        .env(vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ])
        .working_dir("/")
        .build()
        .map_err(failed)?;
    let history = HistoryBuilder::default()
        .created_by("berth")
        .comment("ships with berth")
        .build()
        .map_err(failed)?;
    ImageConfigurationBuilder::default()
        .created(CREATED)
        .architecture(host_architecture())
        .os(Os::Linux)
        .config(config)
        .rootfs(oci_spec::image::RootFs::default())
        .history(vec![history])
        .build()
        .map_err(failed)
}

fn layer() -> std::io::Result<Vec<u8>> {
    let program = program(std::env::consts::ARCH).map_err(std::io::Error::other)?;
    let mut header = tar::Header::new_ustar();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    header.set_mtime(CREATED_SECONDS);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, PROGRAM, program.as_slice())?;
    archive.into_inner()
}

/// An ELF executable: its headers, `write(1, message)`, `exit(0)`, the message.
fn program(architecture: &str) -> Result<Vec<u8>> {
    let (machine, code) = match architecture {
        "x86_64" => (62, x86_64()),
        "aarch64" => (183, aarch64()),
        other => return invalid(format!("hello-world is not made for {other}")),
    };
    let mut file = headers(machine, code.len() + MESSAGE.len());
    file.extend(code);
    file.extend(MESSAGE.as_bytes());
    Ok(file)
}

/// ELF header and one program header: the whole file, readable and executable.
fn headers(machine: u16, body: usize) -> Vec<u8> {
    let size = (HEADERS + body) as u64;
    let mut out = Vec::with_capacity(HEADERS + body);
    out.extend(b"\x7fELF");
    out.extend([2, 1, 1, 0]); // 64 bits, little endian, version 1, System V
    out.extend([0; 8]);
    out.extend(2u16.to_le_bytes()); // ET_EXEC
    out.extend(machine.to_le_bytes());
    out.extend(1u32.to_le_bytes()); // EV_CURRENT
    out.extend((BASE + HEADERS as u64).to_le_bytes()); // entry point
    out.extend(64u64.to_le_bytes()); // offset of the program header
    out.extend(0u64.to_le_bytes()); // no section headers
    out.extend(0u32.to_le_bytes()); // flags
    for half in [64u16, 56, 1, 64, 0, 0] {
        // Sizes of this header and of a program header, how many of them, and
        // the same for sections.
        out.extend(half.to_le_bytes());
    }
    out.extend(1u32.to_le_bytes()); // PT_LOAD
    out.extend(5u32.to_le_bytes()); // PF_R | PF_X
    for word in [0, BASE, BASE, size, size, 0x1_0000] {
        // Offset, virtual and physical address, bytes in file and in memory,
        // alignment (64 KiB pages exist on aarch64).
        out.extend(u64::to_le_bytes(word));
    }
    out
}

fn x86_64() -> Vec<u8> {
    const SIZE: usize = 31;
    let message = (BASE as usize + HEADERS + SIZE) as u32;
    let mut code = Vec::with_capacity(SIZE);
    code.extend([0xb8, 1, 0, 0, 0]); // mov eax, 1      write
    code.extend([0xbf, 1, 0, 0, 0]); // mov edi, 1      standard output
    code.push(0xbe); //                 mov esi, message
    code.extend(message.to_le_bytes());
    code.push(0xba); //                 mov edx, length
    code.extend((MESSAGE.len() as u32).to_le_bytes());
    code.extend([0x0f, 0x05]); //       syscall
    code.extend([0xb8, 60, 0, 0, 0]); // mov eax, 60     exit
    code.extend([0x31, 0xff]); //       xor edi, edi
    code.extend([0x0f, 0x05]); //       syscall
    code
}

fn aarch64() -> Vec<u8> {
    const INSTRUCTIONS: u32 = 8;
    // The second instruction computes the address: 28 bytes before the message.
    let distance = (INSTRUCTIONS - 1) * 4;
    let adr = 0x1000_0001 | (distance & 3) << 29 | (distance >> 2) << 5;
    let code: [u32; INSTRUCTIONS as usize] = [
        0xd280_0020,                               // mov x0, #1      standard output
        adr,                                       // adr x1, message
        0xd280_0002 | (MESSAGE.len() as u32) << 5, // mov x2, #length
        0xd280_0808,                               // mov x8, #64     write
        0xd400_0001,                               // svc #0
        0xd280_0000,                               // mov x0, #0
        0xd280_0ba8,                               // mov x8, #93     exit
        0xd400_0001,                               // svc #0
    ];
    code.into_iter().flat_map(u32::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_program_runs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hello");
        std::fs::write(&path, program(std::env::consts::ARCH).unwrap()).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let output = std::process::Command::new(&path).output().unwrap();
        assert!(output.status.success(), "{}", output.status);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), MESSAGE);
    }

    #[test]
    fn the_code_is_as_long_as_its_addresses_assume() {
        assert_eq!(x86_64().len(), 31);
        assert_eq!(aarch64().len(), 32);
        assert!(MESSAGE.len() < 1 << 16, "it must fit a 16-bit immediate");
        let file = program("aarch64").unwrap();
        assert!(file.ends_with(MESSAGE.as_bytes()));
        assert_eq!(file.len(), HEADERS + 32 + MESSAGE.len());
    }
}
