use std::collections::HashMap;

use serde_json::json;

use super::fake::{Rig, image, layer, step};
use crate::solve::{Document, own_steps};

#[tokio::test]
async fn records_serve_another_engine() {
    let rig = Rig::new();
    let vertices = vec![
        image("base"),
        step("give tools", &[0]),
        step("give a", &[0]),
        step("none", &[2, 1]),
        step("give b", &[3]),
    ];
    let job = rig.job(vertices.clone());
    let graph = job.graph.clone();
    let solved = crate::solve::solve(job, &rig.cache, &rig.files)
        .await
        .unwrap();
    let own = own_steps(&graph, 4);
    assert_eq!(own.iter().copied().collect::<Vec<_>>(), [0, 2, 3, 4]);
    let names = Document::layers(&solved, 0..5);
    assert_eq!(names.len(), 3);
    let places = |names: &[String]| -> HashMap<String, usize> {
        let places = names.iter().enumerate();
        places.map(|(at, name)| (name.clone(), at)).collect()
    };
    let places = places(&names);
    let places: HashMap<&str, usize> = places.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    let document = Document::write(&solved, &graph, own, &places);
    let json = serde_json::to_value(&document).unwrap();
    let document = Document::read(&json).unwrap();

    let other = Rig::new();
    let a = names.iter().position(|name| *name == layer("a").digest);
    other.fake.memory.make(&layer("a"));
    assert_eq!(document.wanted(&other.cache).len(), 2);
    let given = HashMap::from([(a.unwrap(), layer("a"))]);
    // "a" and "none"; of "b" there is no layer.
    assert_eq!(other.cache.import(&document, &given).unwrap(), 2);
    assert_eq!(other.cache.import(&document, &given).unwrap(), 0);
    assert_eq!(other.runs(&vertices).await, ["give tools", "give b"]);
    assert!(document.wanted(&rig.cache).is_empty());
    // A layer that is not here.
    let third = Rig::new();
    assert!(third.cache.import(&document, &given).is_err());
}

#[test]
fn documents_are_not_believed() {
    let key = "0123456789abcdef".repeat(4);
    let read = |records: serde_json::Value| {
        Document::read(&json!({"version": 1, "records": records})).is_ok()
    };
    assert!(read(
        json!([{"keys": [key], "layer": 7, "description": "x"}])
    ));
    for bad in [
        json!(1),
        json!([{"keys": [], "description": "x"}]),
        json!([{"keys": [key[1..]], "description": "x"}]),
        json!([{"keys": [key.to_uppercase()], "description": "x"}]),
        json!([{"keys": [key], "layer": -1, "description": "x"}]),
        json!([{"keys": [key], "description": "\u{1b}[2J"}]),
        json!([{"keys": [key], "description": "x".repeat(5000)}]),
    ] {
        assert!(!read(bad.clone()), "{bad}");
    }
    assert!(Document::read(&json!({"version": 2, "records": []})).is_err());
}
