use berth_api::progress::Detail;

use super::*;

fn line(id: &str, status: &str, current: i64, total: i64) -> Progress {
    Progress {
        id: id.to_owned(),
        status: status.to_owned(),
        detail: Some(Detail { current, total }),
        ..Progress::default()
    }
}

fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value)
}

/// One layer half way, one waiting, one done.
fn three() -> Transfer {
    let mut transfer = Transfer::default();
    for id in ["aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"] {
        transfer.update(&line(id, "Pulling fs layer", 0, 0), seconds(0.0));
    }
    transfer.update(
        &line("cccccccccccc", "Downloading", 1_000_000, 1_000_000),
        seconds(0.1),
    );
    transfer.update(&line("cccccccccccc", "Pull complete", 0, 0), seconds(0.2));
    for tenth in 0..=10 {
        transfer.update(
            &line("aaaaaaaaaaaa", "Downloading", tenth * 1_000_000, 20_000_000),
            seconds(1.0 + tenth as f64 / 10.0),
        );
    }
    transfer
}

#[test]
fn a_line_per_layer_and_one_for_all() {
    let lines = three().render(100, 24, seconds(2.0), false);
    assert_eq!(
        lines,
        [
            "aaaaaaaaaaaa Downloading          [==============>               ]       10MB/20MB    10MB/s      1s",
            "bbbbbbbbbbbb Pulling fs layer",
            "cccccccccccc Pull complete                                                     1MB",
            "total        1/3 done             [==============>               ]       11MB/21MB   5.5MB/s",
        ]
    );
}

#[test]
fn narrow_terminals_get_less_but_never_a_broken_line() {
    let transfer = three();
    for width in 1..140 {
        for colours in [false, true] {
            for line in transfer.render(width, 24, seconds(2.0), colours) {
                assert!(columns(&line) <= width, "{width}: {line:?}");
            }
        }
    }
    assert_eq!(
        transfer.render(50, 24, seconds(2.0), false)[0],
        "aaaaaaaaaaaa Downloading                10MB/20MB"
    );
    assert_eq!(
        transfer.render(16, 24, seconds(2.0), false)[0],
        "aaaaaaaaaaaa Dow"
    );
}

#[test]
fn more_layers_than_rows() {
    let mut transfer = Transfer::default();
    for number in 0..50 {
        let id = format!("layer{number}");
        transfer.update(&line(&id, "Pulling fs layer", 0, 0), seconds(0.0));
        if number < 20 {
            transfer.update(&line(&id, "Pull complete", 0, 0), seconds(0.0));
        }
    }
    transfer.update(&line("layer45", "Downloading", 1, 10), seconds(0.1));
    let lines = transfer.render(80, 10, seconds(0.1), false);
    assert_eq!(lines.len(), 9);
    assert!(lines[6].starts_with("layer45"), "{lines:#?}");
    assert_eq!(lines[7], "… 43 more, 20 of them done");
    assert!(lines[8].starts_with("total   20/50 done"), "{lines:#?}");
    // Any height is survived.
    for height in 0..5 {
        assert!(!transfer.render(80, height, seconds(1.0), true).is_empty());
    }
}

#[test]
fn colours_only_when_wanted() {
    let transfer = three();
    let plain = transfer.render(100, 24, seconds(2.0), false).join("\n");
    assert!(!plain.contains('\x1b'));
    let coloured = transfer.render(100, 24, seconds(2.0), true).join("\n");
    assert!(coloured.contains("\x1b[32mPull complete"));
}

#[test]
fn hostile_names_do_not_drive_the_terminal() {
    let mut transfer = Transfer::default();
    transfer.update(
        &line("a\x1b[2J", "Down\rloading", -5, i64::MAX),
        seconds(0.0),
    );
    transfer.update(&line("b", "Downloading", i64::MAX, i64::MAX), seconds(0.0));
    transfer.update(&line("c", "Downloading", i64::MAX, 1), seconds(1.0));
    for line in transfer
        .render(80, 24, seconds(1.0), false)
        .iter()
        .chain(&transfer.last())
    {
        assert!(!line.contains(['\x1b', '\r']), "{line:?}");
    }
}

#[test]
fn times_left() {
    for (bytes, want) in [(10, "10s"), (185, "3m05s"), (7800, "2h10m"), (0, "")] {
        assert_eq!(left(Some(1.0), 0, bytes), want);
    }
    assert_eq!(left(None, 0, 5), "");
}
