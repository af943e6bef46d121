//! Against docker-registry.

use std::sync::atomic::{AtomicU64, Ordering};

use berth_registry::client::{Access, Error};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};

use crate::rig::{self, MANIFEST, Registry, Source, client, manifest, noise};

fn is_send<T: Send>(value: T) -> T {
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_and_pulls() {
    let registry = Registry::start();
    let client = client();
    let repository = registry.repository(&client, "a/b", Access::Push);
    for length in [0, 1, 3000, (64 << 10) + 1, 5 << 20] {
        let blob = noise(length);
        let source = Source::new(&blob);
        let digest = rig::digest(&blob);
        let last = AtomicU64::new(0);
        let sent = |n| last.store(n, Ordering::Relaxed);
        is_send(repository.push_blob(&digest, length as u64, &source, &sent))
            .await
            .unwrap();
        assert_eq!(last.load(Ordering::Relaxed), length as u64);
        assert_eq!(
            repository.blob_size(&digest).await.unwrap(),
            Some(length as u64)
        );
        // It is there already: nothing is read.
        is_send(repository.push_blob(&digest, length as u64, &source, &sent))
            .await
            .unwrap();
        assert_eq!(
            source.opened.load(Ordering::Relaxed),
            usize::from(length > 0)
        );
        let reader = registry.repository(&client, "a/b", Access::Pull);
        assert_eq!(rig::read(&reader, &digest, 0).await, blob);
        let half = length as u64 / 2;
        assert_eq!(rig::read(&reader, &digest, half).await, blob[length / 2..]);
    }
    let blob = noise(3000);
    let bytes = manifest(&rig::digest(&blob), blob.len());
    let digest = is_send(repository.push_manifest("v1", MANIFEST, bytes.clone()))
        .await
        .unwrap();
    assert_eq!(digest, rig::digest(&bytes));
    let reader = registry.repository(&client, "a/b", Access::Pull);
    for reference in ["v1", &digest] {
        let found = is_send(reader.manifest(reference)).await.unwrap();
        assert_eq!(found.bytes, bytes);
        assert_eq!(
            (found.digest.as_str(), found.media_type.as_str()),
            (digest.as_str(), MANIFEST)
        );
        let described = is_send(reader.manifest_descriptor(reference))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (described.digest, described.size),
            (digest.clone(), bytes.len() as u64)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there() {
    let registry = Registry::start();
    let client = client();
    let reader = registry.repository(&client, "a", Access::Pull);
    let host = &registry.host;
    let error = reader.manifest("v1").await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("manifest for {host}/a:v1 not found: manifest unknown: manifest unknown")
    );
    assert!(reader.manifest_descriptor("v1").await.unwrap().is_none());
    let digest = rig::digest(b"x");
    assert!(reader.blob_size(&digest).await.unwrap().is_none());
    let error = reader.blob(&digest, 0, &[]).await.unwrap_err();
    assert!(error.to_string().contains("blob unknown"), "{error}");
    let error = reader.tags().await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("repository name not known to registry"),
        "{error}"
    );
    let error = reader
        .push_manifest("v1", MANIFEST, Bytes::from("{}"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unsupported(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_lists_and_deletes() {
    let registry = Registry::start();
    let client = client();
    let first = registry.repository(&client, "first", Access::Push);
    let second = registry.repository(&client, "second", Access::Push);
    let blob = noise(100_000);
    let digest = rig::push(&first, &blob).await;
    assert!(is_send(second.mount_blob(&digest, "first")).await.unwrap());
    assert_eq!(rig::read(&second, &digest, 0).await, blob);
    assert!(
        !second
            .mount_blob(&rig::digest(b"other"), "first")
            .await
            .unwrap()
    );

    let bytes = manifest(&digest, blob.len());
    for tag in ["a", "b"] {
        second
            .push_manifest(tag, MANIFEST, bytes.clone())
            .await
            .unwrap();
    }
    let pushed = rig::digest(&bytes);
    let mut tags = is_send(second.tags()).await.unwrap();
    tags.sort();
    assert_eq!(tags, ["a", "b"]);
    assert!(is_send(second.referrers(&pushed)).await.unwrap().is_empty());
    is_send(second.delete_manifest(&pushed)).await.unwrap();
    assert!(second.manifest_descriptor("a").await.unwrap().is_none());
    let error = second.delete_manifest(&pushed).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_has_pages() {
    let registry = Registry::start();
    let client = client();
    let blob = noise(10);
    // docker-registry shows 100 at a time.
    stream::iter(0..130)
        .for_each_concurrent(16, |n| {
            let repository = registry.repository(&client, &format!("r{n:03}"), Access::Push);
            let blob = blob.clone();
            async move {
                let digest = rig::push(&repository, &blob).await;
                let bytes = manifest(&digest, blob.len());
                repository
                    .push_manifest("v", MANIFEST, bytes)
                    .await
                    .unwrap();
            }
        })
        .await;
    let names = is_send(client.catalog(&registry.host, &Default::default()))
        .await
        .unwrap();
    assert_eq!(names.len(), 130);
}
