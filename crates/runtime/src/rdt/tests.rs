//! No machine at hand has the hardware: an ordinary directory stands for resctrl.
//! It takes what is written and makes no files by itself.

use super::*;

const MOUNTS: &str = "\
22 1 0:20 / /proc rw - proc proc rw
40 22 0:37 / /sys/fs/res\\040ctrl rw,relatime shared:9 - resctrl resctrl rw,mba_MBps
41 22 0:38 / /elsewhere rw - resctrl resctrl rw
";

/// With these directories below info.
fn resctrl(features: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for feature in features {
        std::fs::create_dir_all(root.path().join("info").join(feature)).unwrap();
    }
    root
}

fn section(json: &str) -> LinuxIntelRdt {
    serde_json::from_str(json).unwrap()
}

fn rdt(root: &Path, json: &str) -> Result<Rdt> {
    Rdt::below(Some(root), &section(json), "c1")
}

fn refusal(root: Option<&Path>, json: &str) -> String {
    let refused = Rdt::below(root, &section(json), "c1");
    refused.unwrap_err().to_string()
}

#[test]
fn first_resctrl_is_found() {
    let found = mount_point(MOUNTS).unwrap();
    assert_eq!(found, Path::new("/sys/fs/res ctrl"));
    assert!(mount_point("22 1 0:20 / /resctrl rw - proc resctrl rw").is_none());
}

#[test]
fn what_the_kernel_lacks_is_refused_in_runcs_words() {
    let bare = resctrl(&[]);
    for root in [None, Some(bare.path())] {
        for (json, text) in [
            (
                r#"{"l3CacheSchema":"L3:0=f"}"#,
                "l3CacheSchema is specified in config, but Intel RDT/CAT is not enabled",
            ),
            (
                r#"{"memBwSchema":"MB:0=20"}"#,
                "memBwSchema is specified in config, but Intel RDT/MBA is not enabled",
            ),
            (r#"{"enableCmt":true}"#, "Intel RDT/CMT is not enabled"),
            (r#"{"enableMbm":true}"#, "Intel RDT/MBM is not enabled"),
            (
                r#"{"enableMonitoring":true}"#,
                "enableMonitoring is specified",
            ),
        ] {
            let error = refusal(root, json);
            assert!(
                error.starts_with("intelRdt.") && error.contains(text),
                "{error}"
            );
        }
    }
    for json in ["{}", r#"{"closID":"x"}"#, r#"{"schemata":["MB:0=20"]}"#] {
        assert!(refusal(None, json).contains("no resctrl filesystem is mounted"));
    }
}

#[test]
fn class_is_one_directory() {
    let root = resctrl(&[]);
    for name in ["..", ".", "a/b", "/a", "../x"] {
        let error = refusal(Some(root.path()), &format!(r#"{{"closID":"{name}"}}"#));
        assert_eq!(error, format!("invalid intelRdt.ClosID {name:?}"));
    }
    let of = |json| rdt(root.path(), json).unwrap();
    assert_eq!(of("{}").class, root.path().join("c1"));
    assert_eq!(of(r#"{"closID":"x"}"#).class, root.path().join("x"));
    assert_eq!(of(r#"{"closID":"/"}"#).class, root.path());
    assert!(of("{}").own && !of(r#"{"closID":"/"}"#).own);
}

#[test]
fn schemas_are_merged() {
    assert_eq!(merge("L3:0=f;1=f0", "MB:0=20"), "L3:0=f;1=f0\nMB:0=20\n");
    assert_eq!(
        merge("L3:0=f\nMB:0=70\n\nL2:0=1", "MB:0=20"),
        "L3:0=f\nL2:0=1\nMB:0=20\n"
    );
    assert_eq!(merge("MB:0=70", ""), "");
    assert_eq!(merge("", "MB:0=20"), "MB:0=20\n");
    let root = resctrl(&["MB"]);
    for wrong in ["L3:0=f", "MB:0=1\\nL3:0=f", "20"] {
        let json = format!(r#"{{"memBwSchema":"{wrong}"}}"#);
        assert!(refusal(Some(root.path()), &json).contains("memBwSchema"));
    }
}

#[test]
fn own_class_is_made_filled_and_removed() {
    let root = resctrl(&["L3", "MB"]);
    let rdt = rdt(
        root.path(),
        r#"{"l3CacheSchema":"L3:0=f","memBwSchema":"MB:0=20","schemata":["L2:0=3","MB:0=10"]}"#,
    )
    .unwrap();
    rdt.apply().unwrap();
    let schemata = root.path().join("c1/schemata");
    // Written last, and a plain file keeps only that.
    assert_eq!(
        std::fs::read_to_string(&schemata).unwrap(),
        "L2:0=3\nMB:0=10\n"
    );
    rdt.update().unwrap();
    assert_eq!(
        std::fs::read_to_string(&schemata).unwrap(),
        "L3:0=f\nMB:0=20\n"
    );
    // The kernel's directory goes with its files.
    std::fs::remove_file(schemata).unwrap();
    rdt.remove().unwrap();
    assert!(!root.path().join("c1").exists());
    rdt.remove().unwrap();
}

#[test]
fn named_class_must_fit_and_stays() {
    let root = resctrl(&["L3", "MB", "L3_MON"]);
    let class = root.path().join("gold");
    std::fs::create_dir(&class).unwrap();
    std::fs::write(
        class.join("schemata"),
        "    L3:0=00f;1=7ff\n    MB:0= 20;1=100\nL2:0=1\n",
    )
    .unwrap();
    let of = |json: &str| rdt(root.path(), json).unwrap();
    let fits = r#"{"closID":"gold","l3CacheSchema":"L3:1=7ff;0=f","memBwSchema":"MB:0=20;1=100"}"#;
    of(fits).apply().unwrap();
    let error = of(r#"{"closID":"gold","l3CacheSchema":"L3:0=f;1=f"}"#).apply();
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("gold are not \"L3:0=f;1=f\"")
    );
    of(r#"{"closID":"gold"}"#).apply().unwrap();
    of(r#"{"closID":"gold"}"#).remove().unwrap();
    assert!(class.exists());
    // One that somebody should have made.
    let error = of(r#"{"closID":"silver"}"#).apply().unwrap_err();
    assert!(error.to_string().contains("must be pre-created"), "{error}");
    of(r#"{"closID":"silver","l3CacheSchema":"L3:0=f"}"#)
        .apply()
        .unwrap();
    assert!(root.path().join("silver/schemata").exists());
}

#[test]
fn tasks_join_the_class_then_its_monitoring_group() {
    let root = resctrl(&["L3_MON"]);
    let rdt = rdt(
        root.path(),
        r#"{"closID":"/","enableMonitoring":true,"enableCmt":true}"#,
    )
    .unwrap();
    let monitor = root.path().join("mon_groups/c1");
    std::fs::create_dir(root.path().join("mon_groups")).unwrap();
    rdt.apply().unwrap();
    for dir in [root.path(), &monitor] {
        std::fs::write(dir.join("tasks"), "").unwrap();
    }
    rdt.assign(&[7]).unwrap();
    for dir in [root.path(), &monitor] {
        assert_eq!(std::fs::read_to_string(dir.join("tasks")).unwrap(), "7");
    }
    let cache = monitor.join("mon_data/mon_L3_00");
    std::fs::create_dir_all(&cache).unwrap();
    std::fs::write(cache.join("llc_occupancy"), "4096\n").unwrap();
    std::fs::write(cache.join("mbm_total_bytes"), "1\n").unwrap();
    let usage = rdt.usage();
    let expected = RdtUsage {
        occupancy: Some(4096),
        ..RdtUsage::default()
    };
    assert_eq!(usage, [expected]);
    std::fs::remove_dir_all(monitor.join("mon_data")).unwrap();
    std::fs::remove_file(monitor.join("tasks")).unwrap();
    rdt.remove().unwrap();
    assert!(!monitor.exists() && root.path().exists());
}

#[test]
fn kernels_reason_is_told() {
    let root = resctrl(&["L3"]);
    std::fs::write(
        root.path().join("info/last_cmd_status"),
        "Mask f0f has non-consecutive 1-bits\n",
    )
    .unwrap();
    std::fs::write(root.path().join("c1"), "in the way").unwrap();
    let rdt = rdt(root.path(), r#"{"l3CacheSchema":"L3:0=f0f"}"#).unwrap();
    let error = rdt.apply().unwrap_err().to_string();
    assert!(
        error.contains("last_cmd_status: Mask f0f has non-consecutive 1-bits"),
        "{error}"
    );
}
