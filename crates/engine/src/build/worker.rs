//! What a solve needs done, by this engine.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use berth_build::graph::{Git, Http, Id, Image, Local};
use berth_build::solve::{Boxed, Step, Worker};
use berth_build::tree::{Chain, Layer, Tree};

use super::session::{Session, failed};
use super::{context, images, sources, step};
use crate::error::blocking;

impl Worker for Session {
    fn image<'a>(&'a self, id: Id, image: &'a Image) -> Boxed<'a, Chain> {
        Box::pin(images::chain(self, id, image))
    }

    fn local<'a>(&'a self, id: Id, local: &'a Local) -> Boxed<'a, Arc<Tree>> {
        Box::pin(context::tree(self, id, &local.name))
    }

    fn git<'a>(&'a self, id: Id, git: &'a Git) -> Boxed<'a, Arc<Tree>> {
        Box::pin(sources::client::git(self, id, git))
    }

    fn http<'a>(&'a self, id: Id, http: &'a Http) -> Boxed<'a, Arc<Tree>> {
        Box::pin(sources::client::http(self, id, http))
    }

    fn exec<'a>(&'a self, id: Id, step: Step) -> Boxed<'a, Option<Layer>> {
        Box::pin(step::run(self, id, step))
    }

    fn mount<'a>(&'a self, chain: &'a Chain) -> Boxed<'a, OwnedFd> {
        let layers: Vec<_> = chain.iter().map(|layer| layer.stored.clone()).collect();
        let session = self.clone();
        Box::pin(async move {
            let mount = move || session.merged(&layers);
            blocking(mount).await.map_err(failed)
        })
    }
}
