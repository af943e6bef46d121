//! Names and identifiers of all containers, in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use berth_api::Error;

use super::Container;

#[derive(Debug, Default)]
pub(crate) struct Index {
    containers: BTreeMap<String, Arc<Container>>,
    /// Name → identifier; also of containers that are being made.
    names: HashMap<String, String>,
}

impl Index {
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.containers.values().cloned().collect()
    }

    /// Takes a name, or says in Docker's words who has it.
    pub(crate) fn reserve(&mut self, name: &str, id: &str) -> Result<(), Error> {
        match self.names.get(name) {
            Some(owner) if owner != id => Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove (or rename) that container to be able to reuse that name."
            ))),
            _ => {
                self.names.insert(name.to_owned(), id.to_owned());
                Ok(())
            }
        }
    }

    pub(crate) fn has_name(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    pub(crate) fn release(&mut self, name: &str, id: &str) {
        if self.names.get(name).is_some_and(|owner| owner == id) {
            self.names.remove(name);
        }
    }

    pub(crate) fn insert(&mut self, container: Arc<Container>) {
        self.containers.insert(container.id.clone(), container);
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.containers.remove(id);
        self.names.retain(|_, owner| owner != id);
    }

    /// By full identifier, then by name, then by unambiguous beginning.
    pub(crate) fn find(&self, text: &str) -> Result<Arc<Container>, Error> {
        if text.is_empty() {
            return Err(Error::invalid("No container name or ID supplied"));
        }
        if let Some(container) = self.containers.get(text) {
            return Ok(container.clone());
        }
        let name = text.strip_prefix('/').unwrap_or(text);
        if let Some(container) = self.names.get(name).and_then(|id| self.containers.get(id)) {
            return Ok(container.clone());
        }
        let mut found = self
            .containers
            .range(text.to_owned()..)
            .take_while(|(id, _)| id.starts_with(text))
            .map(|(_, container)| container);
        match (found.next(), found.next()) {
            (Some(container), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "multiple IDs found with provided prefix: {text}"
            ))),
            (None, _) => Err(Error::not_found(format!("No such container: {text}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Record;

    fn container(id: &str, name: &str) -> Arc<Container> {
        Arc::new(Container::new(
            "/nowhere".into(),
            Record {
                id: id.into(),
                name: name.into(),
                ..Record::default()
            },
        ))
    }

    #[test]
    fn found_by_id_name_and_prefix() {
        let mut index = Index::default();
        for (id, name) in [("aa11", "one"), ("aa22", "two"), ("bb33", "aa1")] {
            index.reserve(name, id).unwrap();
            index.insert(container(id, name));
        }
        assert_eq!(index.find("aa22").unwrap().id, "aa22");
        assert_eq!(index.find("/one").unwrap().id, "aa11");
        assert_eq!(index.find("aa1").unwrap().id, "bb33", "a name goes first");
        assert_eq!(index.find("aa11").unwrap().id, "aa11");
        assert_eq!(index.find("bb").unwrap().id, "bb33");
        assert!(
            index
                .find("aa")
                .unwrap_err()
                .message
                .contains("multiple IDs")
        );
        assert_eq!(index.find("x").unwrap_err().message, "No such container: x");
        let conflict = index.reserve("one", "cc").unwrap_err();
        assert_eq!(
            conflict.message,
            "Conflict. The container name \"/one\" is already in use by container \"aa11\". You have to remove (or rename) that container to be able to reuse that name."
        );
        index.remove("aa11");
        index.reserve("one", "cc").unwrap();
    }
}
