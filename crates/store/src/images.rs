//! Images by name: list, find, tag, remove.

use std::sync::{Arc, MutexGuard};

use crate::blob::short;
use crate::error::{Error, Result, invalid};
use crate::reference::{familiar, is_full_id, is_lower_hex};
use crate::state::{Images, Record, Saved, State, edit, now, repository_of, set_name};
use crate::store::Turn;
use crate::{Image, Reference, Removed, Store};

/// Docker takes fewer digits for a name only.
const MIN_SHORT_ID: usize = 4;

/// How a reference led to an image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// By this full name.
    Name(String),
    /// By its digest in this repository.
    Digest(String),
    Id,
}

impl Store {
    pub fn images(&self) -> Vec<Image> {
        self.inner
            .state()
            .images
            .values()
            .map(|record| record.image.clone())
            .collect()
    }

    /// Finds by name, full ID, or unambiguous beginning of an ID.
    ///
    /// # Errors
    /// `NotFound` ("No such image: x:latest"), `Invalid` for a bad reference.
    pub fn find(&self, reference: &str) -> Result<Image> {
        let record = find(&self.inner.state(), reference)?.0;
        Ok(record.image.clone())
    }

    /// Points `name` (normalised) at the image; takes it from another if need be.
    ///
    /// # Errors
    /// `Invalid` if the name has no tag but a digest: that is not given, it is.
    pub fn tag(&self, id: &str, name: &Reference) -> Result<()> {
        if name.digest.is_some() {
            return invalid("refusing to create a tag with a digest reference");
        }
        let turn = self.inner.turn();
        let state = self.inner.state();
        let id = find(&state, id)?.0.saved.id.clone();
        let now = now();
        let change = |images: &mut _| set_name(images, &id, &name.full(), &now);
        self.inner.update_images(&turn, state, change).map(drop)
    }

    /// Docker's rules: a name is untagged, and so are all of a repository that
    /// is given with the digest; the last name takes the image with it; an ID
    /// with several names needs `force`. `in_use` says whether a container uses
    /// the image, with Docker's words: "image is being used by running
    /// container x" (no force helps) or "image is being used by stopped
    /// container x".
    pub fn remove(
        &self,
        reference: &str,
        force: bool,
        in_use: &dyn Fn(&Image) -> Option<String>,
    ) -> Result<Vec<Removed>> {
        let turn = self.inner.turn();
        let state = self.inner.state();
        let (record, by) = find(&state, reference)?;
        let saved = &record.saved;
        let user = in_use(&record.image);
        if let Some((shown, gone)) = meant(saved, &by) {
            if gone.len() < saved.names.len() + saved.digests.len() {
                return self.untag(&turn, state, &saved.id, &gone);
            }
            if let Some(user) = &user {
                if !force {
                    return Err(Error::Conflict(format!(
                        "conflict: unable to delete {shown} (must be forced) - {}",
                        as_reference_user(user, &record)
                    )));
                }
                // The container keeps the image, without a name.
                return self.untag(&turn, state, &saved.id, &gone);
            }
        } else {
            let conflict = |how: &str, why: &str| {
                let id = short(&saved.id);
                Err(Error::Conflict(format!(
                    "conflict: unable to delete {id} ({how}) - {why}"
                )))
            };
            match &user {
                Some(user) if user.contains("running container") => {
                    return conflict("cannot be forced", user);
                }
                Some(user) if !force => return conflict("must be forced", user),
                _ => {}
            }
            if references(saved) > 1 && !force {
                return conflict(
                    "must be forced",
                    "image is referenced in multiple repositories",
                );
            }
        }
        let mut removed: Vec<_> = (saved.names.iter().chain(&saved.digests))
            .map(|name| Removed::Untagged(familiar(name)))
            .collect();
        removed.push(Removed::Deleted(saved.id.clone()));
        let change = |images: &mut Images| drop(images.remove(&saved.id));
        let mut state = self.inner.update_images(&turn, state, change)?;
        self.inner.collect(&mut state);
        Ok(removed)
    }

    fn untag(
        &self,
        turn: &Turn<'_>,
        state: MutexGuard<'_, State>,
        id: &str,
        gone: &[String],
    ) -> Result<Vec<Removed>> {
        let change = |images: &mut Images| {
            if let Some(record) = images.get_mut(id) {
                edit(record, |saved| saved.forget(gone));
            }
        };
        drop(self.inner.update_images(turn, state, change)?);
        let names = gone.iter().map(|name| Removed::Untagged(familiar(name)));
        Ok(names.collect())
    }
}

/// What a reference that is no ID means, as it is shown, and all that goes
/// with it: with its digest in a repository all the tags there.
fn meant(saved: &Saved, by: &By) -> Option<(String, Vec<String>)> {
    match by {
        By::Id => None,
        By::Name(name) => Some((familiar(name), saved.with(name))),
        By::Digest(repository) => {
            let all = saved.names.iter().chain(&saved.digests);
            let gone = all.filter(|name| repository_of(name) == *repository);
            let shown = familiar(&format!("{repository}@{}", saved.id));
            Some((shown, gone.cloned().collect()))
        }
    }
}

/// Names, and repositories it is known in by its digest only.
fn references(saved: &Saved) -> usize {
    let tagged: Vec<_> = saved.names.iter().map(|name| repository_of(name)).collect();
    let bare = saved.digests.iter();
    let bare = bare.filter(|digest| !tagged.contains(&repository_of(digest)));
    saved.names.len() + bare.count()
}

/// Docker says it the other way round when a name is removed.
fn as_reference_user(text: &str, record: &Record) -> String {
    match text.rsplit_once(" container ") {
        Some((_, container)) if text.starts_with("image is being used by") => {
            format!(
                "container {container} is using its referenced image {}",
                short(&record.saved.id)
            )
        }
        _ => text.to_owned(),
    }
}

pub(crate) fn find(state: &State, text: &str) -> Result<(Arc<Record>, By)> {
    let bare = text.strip_prefix("sha256:").unwrap_or(text);
    if is_full_id(bare) {
        let id = format!("sha256:{bare}");
        return by_id(state, &id)?.ok_or_else(|| Error::NotFound(format!("No such image: {id}")));
    }
    let reference = Reference::parse(text)?;
    let missing = || Error::NotFound(format!("No such image: {}", reference.familiar()));
    if let Some(digest) = &reference.digest {
        let repository = reference.repository();
        let pinned = format!("{repository}@{digest}");
        let is_it = |record: &&Arc<Record>| {
            record.saved.digests.contains(&pinned)
                || record.saved.id == *digest
                    && record
                        .saved
                        .names
                        .iter()
                        .any(|name| repository_of(name) == repository)
        };
        return match state.images.values().find(is_it) {
            Some(record) => Ok((record.clone(), By::Digest(repository))),
            None => Err(missing()),
        };
    }
    let full = reference.full();
    if let Some(record) = state
        .images
        .values()
        .find(|record| record.saved.names.contains(&full))
    {
        return Ok((record.clone(), By::Name(full)));
    }
    if bare.len() >= MIN_SHORT_ID && bare.bytes().all(is_lower_hex) {
        return by_id(state, &format!("sha256:{bare}"))?.ok_or_else(missing);
    }
    Err(missing())
}

/// By the beginning of the digest of the manifest or the configuration.
fn by_id(state: &State, prefix: &str) -> Result<Option<(Arc<Record>, By)>> {
    let mut found = (state.images.values()).filter(|record| {
        record.saved.id.starts_with(prefix) || record.image.config_digest.starts_with(prefix)
    });
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(Error::NotFound("ambiguous reference".to_owned())),
        (record, _) => Ok(record.map(|record| (record.clone(), By::Id))),
    }
}
