use super::tty::picture;
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_api::build::{Vertex, VertexLog, VertexStatus};

/// A point in time, in seconds after the build's start.
fn at(seconds: f64) -> Timestamp {
    let nanoseconds = 1_700_000_000_000_000_000 + (seconds * 1e9) as i128;
    Timestamp::from_nanosecond(nanoseconds).unwrap()
}

fn vertex(name: &str, from: Option<f64>, to: Option<f64>) -> Vertex {
    Vertex {
        digest: format!("sha256:{name}"),
        name: name.to_owned(),
        started: from.map(|time| at(time).to_string()),
        completed: to.map(|time| at(time).to_string()),
        ..Vertex::default()
    }
}

fn vertices(vertexes: Vec<Vertex>) -> Status {
    Status {
        vertexes,
        ..Status::default()
    }
}

fn log(name: &str, time: f64, text: &str) -> Status {
    Status {
        logs: vec![VertexLog {
            vertex: format!("sha256:{name}"),
            stream: 1,
            data: STANDARD.encode(text),
            timestamp: at(time).to_string(),
        }],
        ..Status::default()
    }
}

fn part(
    name: &str,
    id: &str,
    (current, total): (i64, i64),
    (from, now): (f64, f64),
    done: bool,
) -> Status {
    Status {
        statuses: vec![VertexStatus {
            id: id.to_owned(),
            vertex: format!("sha256:{name}"),
            current,
            total,
            timestamp: at(now).to_string(),
            started: Some(at(from).to_string()),
            completed: done.then(|| at(now).to_string()),
            ..VertexStatus::default()
        }],
        ..Status::default()
    }
}

const CONTEXT: &str = "[internal] load build context";
const FROM: &str = "[1/3] FROM busybox";
const MAKE: &str = "[2/3] RUN make";
const FALSE: &str = "[3/3] RUN false";

/// A build whose last step fails, and the second in which each is told.
fn recorded() -> Vec<(f64, Status)> {
    let failed = Vertex {
        error: "process \"/bin/sh -c false\" did not complete successfully: exit code: 1"
            .to_owned(),
        ..vertex(FALSE, Some(2.0), Some(2.5))
    };
    let cached = Vertex {
        cached: true,
        ..vertex(FROM, Some(0.1), Some(0.1))
    };
    vec![
        (
            0.0,
            vertices(
                [CONTEXT, FROM, MAKE, FALSE]
                    .map(|name| vertex(name, None, None))
                    .to_vec(),
            ),
        ),
        (
            0.1,
            vertices(vec![vertex(CONTEXT, Some(0.0), None), cached]),
        ),
        (
            0.2,
            part(
                CONTEXT,
                "transferring context:",
                (1_048_576, 0),
                (0.0, 0.2),
                false,
            ),
        ),
        (
            0.4,
            part(
                CONTEXT,
                "transferring context:",
                (2_097_152, 0),
                (0.0, 0.4),
                true,
            ),
        ),
        (
            0.5,
            vertices(vec![
                vertex(CONTEXT, Some(0.0), Some(0.5)),
                vertex(MAKE, Some(0.5), None),
            ]),
        ),
        (0.6, log(MAKE, 0.6, "cc -c a.c\ncc -c")),
        (0.7, log(MAKE, 0.7, " b.c\n\x1b[2Jdone\n")),
        (
            2.0,
            vertices(vec![
                vertex(MAKE, Some(0.5), Some(2.0)),
                vertex(FALSE, Some(2.0), None),
            ]),
        ),
        (2.4, log(FALSE, 2.4, "no")),
        (2.5, vertices(vec![failed])),
    ]
}

fn traced(until: f64) -> Trace {
    let mut trace = Trace::default();
    for (time, status) in recorded() {
        if time <= until {
            trace.update(&status, at(time));
        }
    }
    // The clocks are the same here.
    trace.ahead = 0.0;
    trace
}

#[test]
fn plain_lines_are_buildkits() {
    let mut out = Vec::new();
    let mut plain = Plain::new(&mut out, "\"default\" instance using docker driver");
    for (time, status) in recorded() {
        plain.update(&status, at(time));
    }
    plain.finish(at(2.5), true);
    let text = String::from_utf8(out).unwrap();
    let want = "\
#0 building with \"default\" instance using docker driver

#1 [1/3] FROM busybox
#1 CACHED

#2 [internal] load build context
#2 transferring context: 1.05MB 0.2s
#2 transferring context: 2.10MB 0.4s done
#2 DONE 0.5s

#3 [2/3] RUN make
#3 0.100 cc -c a.c
#3 0.100 cc -c b.c
#3 0.200 \x1b[2Jdone
#3 DONE 1.5s

#4 [3/3] RUN false
#4 0.400 no
#4 ERROR: process \"/bin/sh -c false\" did not complete successfully: exit code: 1
------
 > [3/3] RUN false:
0.400 no
------
";
    assert_eq!(text, want);
}

#[test]
fn steps_at_the_same_time_take_turns_in_plain() {
    let mut out = Vec::new();
    let mut plain = Plain::new(&mut out, "x");
    let say = |plain: &mut Plain<_>, name: &str, time: f64| {
        plain.update(&log(name, time, "line\n"), at(time));
    };
    plain.update(
        &vertices(vec![
            vertex("a", Some(0.0), None),
            vertex("b", Some(0.0), None),
        ]),
        at(0.0),
    );
    say(&mut plain, "b", 1.0);
    say(&mut plain, "a", 2.0);
    // Now "b" waited for long enough.
    say(&mut plain, "a", 6.0);
    plain.finish(at(7.0), true);
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<_> = text
        .lines()
        .skip(2)
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(
        lines,
        [
            "#1 a",
            "#1 2.000 line",
            "#1 6.000 line",
            "#1 ...",
            "#2 b",
            "#2 1.000 line",
            "#2 ...",
            "#1 a",
            "#1 CANCELED",
            "#2 b",
            "#2 CANCELED"
        ]
    );
}

fn canvas(width: usize, height: usize) -> Canvas {
    Canvas {
        width,
        height,
        colours: false,
    }
}

#[test]
fn a_picture_while_a_step_runs() {
    let picture = picture(
        &traced(0.7),
        at(1.2),
        canvas(60, 24),
        "docker:default",
        false,
    );
    assert_eq!(
        picture,
        [
            "[+] Building 1.2s (2/4)                       docker:default",
            " => [internal] load build context                       0.5s",
            " => => transferring context: 2.10MB                     0.4s",
            " => CACHED [1/3] FROM busybox                           0.0s",
            " => [2/3] RUN make                                      0.7s",
            " => => # cc -c a.c",
            " => => # cc -c b.c",
            " => => # done",
        ]
    );
}

#[test]
fn the_last_picture_says_how_it_ended() {
    let trace = traced(9.0);
    let failed = picture(&trace, at(2.5), canvas(60, 24), "docker:default", true);
    assert_eq!(
        failed[0],
        "[+] Building 2.5s (4/4) FINISHED              docker:default"
    );
    assert_eq!(
        failed[5],
        " => ERROR [3/3] RUN false                               0.5s"
    );
    assert_eq!(
        trace.failures(None),
        "------\n > [3/3] RUN false:\n0.400 no\n------\n"
    );
    let mut given_up = traced(0.7);
    given_up.give_up(at(1.0));
    let last = picture(&given_up, at(1.0), canvas(60, 24), "", true);
    assert_eq!(last[0], "[+] Building 1.0s (3/4)");
    assert_eq!(
        last[4],
        " => CANCELED [2/3] RUN make                             0.5s"
    );
}

#[test]
fn colours_tell_what_is_done() {
    let mut colours = canvas(60, 24);
    colours.colours = true;
    let lines = picture(&traced(9.0), at(2.5), colours, "", true);
    assert!(lines[1].starts_with("\x1b[34m => [internal]") && lines[1].ends_with("\x1b[0m"));
    assert!(lines[5].starts_with("\x1b[31m => ERROR"));
}

#[test]
fn narrow_and_low_terminals() {
    let trace = traced(0.7);
    for width in 0..70 {
        for height in 0..12 {
            let lines = picture(
                &trace,
                at(1.2),
                canvas(width, height),
                "docker:default",
                false,
            );
            assert!(lines.len() < height.max(2), "{width}x{height}: {lines:#?}");
            for line in lines {
                assert!(line.chars().count() <= width, "{width}: {line:?}");
            }
        }
    }
    // What runs is what is left.
    let low = picture(&trace, at(1.2), canvas(60, 4), "", false);
    assert_eq!(low.len(), 3);
    assert!(
        low[1].contains("RUN make") && low[2].contains("# done"),
        "{low:#?}"
    );
}

#[test]
fn wide_letters_and_hostile_names() {
    let mut trace = Trace::default();
    let names = [
        "\u{6f22}\u{5b57}".repeat(40),
        "evil\x1b[2J\nname".to_owned(),
    ];
    for name in &names {
        trace.update(&vertices(vec![vertex(name, Some(0.0), None)]), at(0.0));
    }
    let lines = picture(&trace, at(0.0), canvas(40, 24), "", false);
    let wide = lines[1].chars().filter(|&c| c > '\u{2000}').count();
    assert_eq!(lines[1].chars().count() + wide, 40, "{lines:#?}");
    assert!(
        !lines[2].contains('\x1b') && !lines[2].contains('\n'),
        "{lines:#?}"
    );
}

/// Just enough of a terminal: rows, and a cursor.
struct Terminal {
    rows: Vec<String>,
    row: usize,
    width: usize,
}

impl Terminal {
    fn write(&mut self, text: &str) {
        let mut rest = text;
        let mut column = 0;
        while let Some(letter) = rest.chars().next() {
            rest = &rest[letter.len_utf8()..];
            match letter {
                '\r' => column = 0,
                '\n' => (self.row, column) = (self.row + 1, 0),
                '\x1b' => {
                    let end = rest.find(|c: char| c.is_ascii_alphabetic()).unwrap();
                    let (number, what) = (&rest[1..end], &rest[end..=end]);
                    rest = &rest[end + 1..];
                    match what {
                        "A" => self.row -= number.parse::<usize>().unwrap(),
                        "K" => self.rows[self.row].truncate(column),
                        "J" => self.rows.truncate(self.row),
                        _ => {}
                    }
                }
                letter => {
                    if column == self.width {
                        (self.row, column) = (self.row + 1, 0);
                    }
                    while self.rows.len() <= self.row {
                        self.rows.push(String::new());
                    }
                    self.rows[self.row].truncate(column);
                    self.rows[self.row].push(letter);
                    column += 1;
                }
            }
            while self.rows.len() <= self.row {
                self.rows.push(String::new());
            }
        }
    }
}

#[test]
fn pictures_replace_each_other() {
    let lines = |texts: &[&str]| {
        texts
            .iter()
            .map(|&text| text.to_owned())
            .collect::<Vec<_>>()
    };
    let drawn = |lines: &[String]| lines.iter().map(String::len).collect::<Vec<_>>();
    let mut terminal = Terminal {
        rows: lines(&["before"]),
        row: 1,
        width: 10,
    };
    let first = lines(&["one", "two longer", "three"]);
    terminal.write(&redraw(&[], &first, 10));
    let second = lines(&["1", "2"]);
    terminal.write(&redraw(&drawn(&first), &second, 10));
    // The last row is the cursor's.
    assert_eq!(terminal.rows, ["before", "1", "2", ""]);
    // In a terminal of half the width, a line of ten columns takes two rows.
    let mut narrow = Terminal {
        rows: lines(&["before", "two l", "onger", ""]),
        row: 3,
        width: 5,
    };
    narrow.write(&redraw(&[10], &lines(&["x"]), 5));
    assert_eq!(narrow.rows, ["before", "x", ""]);
}

#[test]
fn modes() {
    for (flag, quiet, want) in [
        (Some("plain"), false, Ok(Mode::Plain)),
        (Some("rawjson"), false, Ok(Mode::RawJson)),
        (Some("none"), false, Ok(Mode::Quiet)),
        (Some("auto"), true, Ok(Mode::Quiet)),
        (Some("x"), false, Err("invalid progress mode x")),
        (
            Some("plain"),
            true,
            Err("progress=plain and quiet cannot be used together"),
        ),
    ] {
        let got = Mode::choose(flag, quiet);
        assert_eq!(
            got.as_ref().map_err(String::as_str),
            want.as_ref().map_err(|why| *why)
        );
    }
}
