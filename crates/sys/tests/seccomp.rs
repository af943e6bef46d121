//! The kernel takes our filters and they do what they say.
//!
//! Here because calls that are to be refused have no safe wrappers. A filter
//! belongs to a thread, so each test loads one into a thread of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io;
use std::path::Path;

use berth_seccomp::{Profile, compile};
use berth_sys::security::load_seccomp;

/// The error of a system call with all arguments zero but the first.
fn errno(number: libc::c_long, first: libc::c_ulong) -> Option<i32> {
    // SAFETY: only used for calls that touch no memory when their pointers are
    // null, and that a filter is expected to refuse.
    let result = unsafe { libc::syscall(number, first, 0, 0, 0, 0, 0) };
    if result < 0 {
        io::Error::last_os_error().raw_os_error()
    } else {
        None
    }
}

fn confined<T: Send>(
    profile: &Profile,
    capabilities: &[&str],
    run: impl FnOnce() -> T + Send,
) -> T {
    let program = compile(&profile.resolve(capabilities, (6, 1)).unwrap()).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            assert!(
                load_seccomp(&program.filter, program.flags)
                    .unwrap()
                    .is_none()
            );
            run()
        });
        thread.join().unwrap()
    })
}

#[test]
fn dockers_profile_refuses_and_allows() {
    confined(&Profile::docker_default(), &[], || {
        for (name, number, first, expected) in [
            (
                "unshare",
                libc::SYS_unshare,
                libc::CLONE_NEWNS as u64,
                libc::EPERM,
            ),
            ("keyctl", libc::SYS_keyctl, 0, libc::EPERM),
            ("add_key", libc::SYS_add_key, 0, libc::EPERM),
            ("AF_ALG", libc::SYS_socket, libc::AF_ALG as u64, libc::EPERM),
            (
                "AF_VSOCK",
                libc::SYS_socket,
                libc::AF_VSOCK as u64,
                libc::EPERM,
            ),
            ("io_uring_setup", libc::SYS_io_uring_setup, 1, libc::EPERM),
            ("mount", libc::SYS_mount, 0, libc::EPERM),
            (
                "clone",
                libc::SYS_clone,
                libc::CLONE_NEWUSER as u64,
                libc::EPERM,
            ),
            ("clone3", libc::SYS_clone3, 0, libc::ENOSYS),
            ("a call of the future", 1000, 0, libc::ENOSYS),
        ] {
            assert_eq!(errno(number, first), Some(expected), "{name}");
        }
        // What programs do all day; thread and process creation fall back from
        // clone3 to clone.
        assert!(
            std::fs::read_to_string("/proc/thread-self/status")
                .unwrap()
                .contains("Seccomp:\t2")
        );
        assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_ok());
        assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
        let true_ = ["/bin/true", "/usr/bin/true"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let status = std::process::Command::new(true_.unwrap()).status().unwrap();
        assert!(status.success());
    });
}

#[test]
fn arguments_decide() {
    let profile = Profile::parse(
        br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["getpriority"],"action":"SCMP_ACT_ERRNO","errnoRet":77,
             "args":[{"index":0,"value":4294967295,"op":"SCMP_CMP_GT"}]}]}"#,
    )
    .unwrap();
    confined(&profile, &[], || {
        assert_eq!(errno(libc::SYS_getpriority, 0), None);
        assert_eq!(errno(libc::SYS_getpriority, 1 << 32), Some(77));
    });
}

#[test]
fn a_listener_is_returned() {
    let profile = Profile::parse(
        br#"{"defaultAction":"SCMP_ACT_ALLOW",
             "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#,
    )
    .unwrap();
    let program = compile(&profile.resolve(&[], (6, 1)).unwrap()).unwrap();
    std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        assert!(
            load_seccomp(&program.filter, program.flags)
                .unwrap()
                .is_some()
        );
    })
    .join()
    .unwrap();
}
