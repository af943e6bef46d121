//! Users and bcrypt hashes of an htpasswd file, read again when it changes.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::server::listen::Error;
use crate::server::stamp::Stamp;

/// Hashes computed at once: they are made to be slow.
const SLOTS: usize = 2;

/// Verified passwords that are remembered, at most.
const MAX_REMEMBERED: usize = 1000;

#[derive(Debug)]
pub(crate) struct Htpasswd {
    path: PathBuf,
    users: Mutex<(Stamp, Arc<Users>)>,
    /// Keyed digests of user, hash and password that fit together.
    remembered: Mutex<HashSet<[u8; 32]>>,
    key: [u8; 32],
    slots: Arc<Semaphore>,
}

#[derive(Debug)]
struct Users {
    hashes: HashMap<String, String>,
    /// Verified in place of the hash of a user that is not there, so that the
    /// time of an answer does not tell who is.
    nobody: String,
}

impl Htpasswd {
    /// Blocks.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File {
            path: path.to_owned(),
            source,
        };
        let stamp = Stamp::of(path).map_err(failed)?;
        let users = Users::read(path).map_err(failed)?;
        let mut key = [0; 32];
        rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| failed(error.into()))?;
        Ok(Self {
            path: path.to_owned(),
            users: Mutex::new((stamp, Arc::new(users))),
            remembered: Mutex::default(),
            key,
            slots: Arc::new(Semaphore::new(SLOTS)),
        })
    }

    /// The users as the file says now. A file that cannot be read any more
    /// changes nothing. Blocks.
    fn current(&self) -> Arc<Users> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        match Stamp::of(&self.path) {
            Ok(stamp) if stamp != users.0 => match Users::read(&self.path) {
                Ok(fresh) => {
                    tracing::info!("read {} again", self.path.display());
                    *users = (stamp, Arc::new(fresh));
                    self.remembered
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .clear();
                }
                Err(error) => {
                    tracing::error!("cannot read {} again: {error}", self.path.display());
                    users.0 = stamp;
                }
            },
            Ok(_) => {}
            Err(error) => tracing::error!("cannot find {}: {error}", self.path.display()),
        }
        Arc::clone(&users.1)
    }

    /// Whether the password is the user's: then a fingerprint of the entry,
    /// which changes with the password.
    pub(crate) async fn verify(&self, user: &str, password: &str) -> Option<String> {
        let users = self.current();
        let hash = users.hashes.get(user);
        let digest = self.digest(user, password, hash.map_or("", String::as_str));
        let known = hash.is_some()
            && self
                .remembered
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&digest);
        if !known {
            let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
            let (password, hash) = (password.to_owned(), hash.unwrap_or(&users.nobody).clone());
            let fits = tokio::task::spawn_blocking(move || {
                // Until it is done, also when the client has gone: else those
                // that come and go take all threads.
                let _slot = slot;
                bcrypt::verify(password, &hash).unwrap_or(false)
            })
            .await
            .unwrap_or(false);
            if !fits || !users.hashes.contains_key(user) {
                tracing::info!("a password for user {user:?} is refused");
                return None;
            }
            let mut remembered = self
                .remembered
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if remembered.len() >= MAX_REMEMBERED {
                remembered.clear();
            }
            remembered.insert(digest);
        }
        users.fingerprint(user)
    }

    /// Of a user's entry as it is now.
    pub(crate) fn fingerprint(&self, user: &str) -> Option<String> {
        self.current().fingerprint(user)
    }

    fn digest(&self, user: &str, password: &str, hash: &str) -> [u8; 32] {
        let mut hasher = Sha256::new_with_prefix(self.key);
        for text in [user, hash, password] {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
        hasher.finalize().into()
    }
}

impl Users {
    fn read(path: &Path) -> io::Result<Self> {
        Self::parse(&std::fs::read_to_string(path)?)
    }

    fn parse(text: &str) -> io::Result<Self> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let mut hashes = HashMap::new();
        let mut highest = 4;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = line.split_once(':').and_then(|(user, hash)| {
                let cost = ["$2y$", "$2a$", "$2b$"]
                    .iter()
                    .find_map(|prefix| hash.strip_prefix(prefix))
                    .and_then(|rest| rest.get(..2)?.parse::<u32>().ok())
                    .filter(|cost| (4..=31).contains(cost) && hash.len() == 60)?;
                Some((user, hash, cost))
            });
            let Some((user, hash, cost)) = entry else {
                return Err(invalid(format!(
                    "line {} is not USER:HASH with a bcrypt hash: make it with 'htpasswd -B'",
                    number + 1
                )));
            };
            highest = highest.max(cost);
            hashes.insert(user.to_owned(), hash.to_owned());
        }
        // Nobody has this password: the hash is only computed against.
        let nobody = format!("$2y${highest:02}${}", ".".repeat(53));
        Ok(Self { hashes, nobody })
    }

    fn fingerprint(&self, user: &str) -> Option<String> {
        let hash = self.hashes.get(user)?;
        Some(crate::server::names::hex(
            &Sha256::new_with_prefix(hash).finalize()[..16],
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn passwords() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let line =
            |user: &str, password: &str| format!("{user}:{}\n", bcrypt::hash(password, 4).unwrap());
        std::fs::write(&path, format!("# users\n{}", line("ann", "secret"))).unwrap();
        let users = Htpasswd::open(&path).unwrap();
        let first = users.verify("ann", "secret").await.unwrap();
        // From memory.
        assert_eq!(users.verify("ann", "secret").await, Some(first.clone()));
        assert_eq!(users.verify("ann", "Secret").await, None);
        assert_eq!(users.verify("bob", "secret").await, None);
        assert_eq!(users.verify("", "").await, None);
        std::fs::write(&path, line("ann", "other one")).unwrap();
        assert_eq!(users.verify("ann", "secret").await, None);
        let second = users.verify("ann", "other one").await;
        assert!(second.is_some() && second != Some(first));
        std::fs::write(&path, "ann:{SHA}xx").unwrap();
        assert_eq!(users.verify("ann", "other one").await, second);
        assert!(Htpasswd::open(&path).is_err());
    }

    #[tokio::test]
    async fn who_goes_away_gives_no_slot_back_early() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let hash = bcrypt::hash("secret", 10).unwrap();
        std::fs::write(&path, format!("ann:{hash}\n")).unwrap();
        let users = Htpasswd::open(&path).unwrap();
        tokio::select! {
            biased;
            _ = users.verify("ann", "guess") => panic!("bcrypt takes its time"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(users.slots.available_permits(), SLOTS - 1);
        let all = u32::try_from(SLOTS).unwrap();
        let _all = users.slots.acquire_many(all).await.unwrap();
    }

    #[test]
    fn nobody_costs_as_much_as_somebody() {
        let hash = bcrypt::hash("x", 5).unwrap();
        let users = Users::parse(&format!("a:{hash}")).unwrap();
        // Verified at all: not refused as malformed, which takes no time.
        assert_eq!(bcrypt::verify("x", &users.nobody).ok(), Some(false));
        assert!(users.nobody.starts_with("$2y$05$"));
    }
}
