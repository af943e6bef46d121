//! The view of images for people: a line per name, and with `--tree` also one
//! per platform. A pure function of the images and the terminal.

use serde::Deserialize;

use crate::output::{harmless, short_id};
use crate::platform;
use crate::units::human_size;

/// One image of `GET /images/json?manifests=1`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Image {
    id: String,
    repo_tags: Option<Vec<String>>,
    repo_digests: Option<Vec<String>>,
    size: i64,
    containers: i64,
    manifests: Option<Vec<Manifest>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Manifest {
    #[serde(rename = "ID")]
    id: String,
    kind: String,
    available: bool,
    size: Sizes,
    image_data: Option<Data>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Sizes {
    content: i64,
    total: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Data {
    platform: Platform,
    containers: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Platform {
    os: String,
    architecture: String,
    variant: String,
}

impl Image {
    /// Neither a name nor a digest of a repository.
    pub(super) fn is_dangling(&self) -> bool {
        let none =
            |list: &Option<Vec<String>>, word: &str| list.iter().flatten().all(|name| name == word);
        none(&self.repo_tags, "<none>:<none>") && none(&self.repo_digests, "<none>@<none>")
    }
}

/// Where the view is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    /// Columns; 0 = no limit.
    pub(super) width: usize,
    pub(super) colours: bool,
    /// With the glyphs of a terminal, if not its colours.
    pub(super) terminal: bool,
}

struct Row {
    names: Vec<String>,
    cells: Cells,
    children: Vec<Child>,
}

struct Child {
    platform: String,
    available: bool,
    cells: Cells,
}

#[derive(Clone)]
struct Cells {
    id: String,
    usage: String,
    content: String,
    used: bool,
}

impl Cells {
    fn new(id: &str, usage: i64, content: i64, used: bool) -> Self {
        Self {
            id: short_id(id).to_owned(),
            usage: human_size(usage as f64, 3),
            content: human_size(content as f64, 3),
            used,
        }
    }
}

/// Colours by what is shown.
#[derive(Clone, Copy)]
enum Tone {
    Title,
    Name,
    Untagged,
    Plain,
    Faint,
}

impl Screen {
    fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if !self.colours => return text.to_owned(),
            Tone::Title => "39;1",
            Tone::Name => "34;1",
            Tone::Untagged | Tone::Faint => "39;2",
            Tone::Plain => "39",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// "U" for an image that containers use.
    fn chip(self, used: bool) -> String {
        match (used, self.terminal) {
            (true, true) if self.colours => "\x1b[38;5;0m\x1b[48;5;14m U \x1b[0m".to_owned(),
            (true, true) => " U ".to_owned(),
            (false, true) => "   ".to_owned(),
            (true, false) => "U".to_owned(),
            (false, false) => " ".to_owned(),
        }
    }
}

const SPACING: usize = 3;
/// The column of names gets no narrower: other columns go.
const NARROWEST: usize = 12;
/// Head, width, aligned to the right.
const COLUMNS: [(&str, usize, bool); 4] = [
    ("ID", 12, false),
    ("DISK USAGE", 10, true),
    ("CONTENT SIZE", 12, true),
    ("EXTRA", 5, false),
];

/// The whole view. `all`: also images without a name. `expanded`: also their
/// platforms.
pub(super) fn render(images: &[Image], all: bool, expanded: bool, screen: Screen) -> String {
    let rows = rows(images, all, expanded);
    let spaced = rows.iter().any(|row| !row.children.is_empty());
    let any_used = rows
        .iter()
        .any(|row| row.cells.used || row.children.iter().any(|child| child.cells.used));
    let widest = rows
        .iter()
        .flat_map(|row| {
            let names = row.names.iter().map(|name| name.chars().count());
            // As Docker counts the branch: in bytes.
            let branches = row.children.iter().map(|child| child.platform.len() + 7);
            names.chain(branches)
        })
        .fold("IMAGE".len(), usize::max);
    let (name_width, columns) = fit(screen.width, widest);
    let table = Table {
        screen,
        name_width,
        columns,
        any_used,
    };
    let mut text = String::new();
    if screen.width > 0 {
        let legend = legend(screen);
        let columns = crate::output::transfer::columns(&legend);
        text += &format!(
            "{}{legend}\n",
            " ".repeat(screen.width.saturating_sub(columns))
        );
    }
    let heads: Vec<_> = COLUMNS[..columns]
        .iter()
        .map(|&(head, width, right)| {
            " ".repeat(SPACING) + &table.cell(Tone::Title, head, width, right)
        })
        .collect();
    text += &table.cell(Tone::Title, "IMAGE", name_width, false);
    text += &heads.concat();
    text.push('\n');
    for row in &rows {
        text += &table.row(row);
        if spaced {
            text.push('\n');
        }
        text += &table.children(row);
        text.push('\n');
    }
    text
}

fn rows(images: &[Image], all: bool, expanded: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for image in images {
        let mut used = image.containers > 0;
        let mut content = 0;
        let mut children = Vec::new();
        for manifest in image.manifests.iter().flatten() {
            content += manifest.size.content;
            let Some(data) = manifest
                .image_data
                .as_ref()
                .filter(|_| manifest.kind == "image")
            else {
                continue;
            };
            let in_use = data
                .containers
                .as_ref()
                .is_some_and(|list| !list.is_empty());
            used |= in_use;
            let Platform {
                os,
                architecture,
                variant,
            } = &data.platform;
            children.push(Child {
                platform: harmless(&platform::format(os, architecture, variant)),
                available: manifest.available,
                cells: Cells::new(
                    &manifest.id,
                    manifest.size.total,
                    manifest.size.content,
                    in_use,
                ),
            });
        }
        let cells = Cells::new(&image.id, image.size, content, used);
        let mut names: Vec<_> = image
            .repo_tags
            .iter()
            .flatten()
            .map(|name| harmless(name))
            .collect();
        names.sort_unstable();
        if expanded {
            rows.push(Row {
                names,
                cells,
                children,
            });
        } else if names.is_empty() {
            if all {
                rows.push(Row {
                    names,
                    cells,
                    children: Vec::new(),
                });
            }
        } else {
            rows.extend(names.into_iter().map(|name| Row {
                names: vec![name],
                cells: cells.clone(),
                children: Vec::new(),
            }));
        }
    }
    // Those without a name come last.
    rows.sort_by(|a, b| {
        let key = |row: &Row| (row.names.is_empty(), row.names.first().cloned());
        key(a).cmp(&key(b))
    });
    rows
}

/// Width of the names and how many columns stand beside them.
fn fit(width: usize, widest: usize) -> (usize, usize) {
    if width == 0 {
        return (widest, COLUMNS.len());
    }
    let mut left = width;
    let mut columns = 0;
    for (_, need, _) in COLUMNS {
        let need = need + SPACING;
        if left < need + NARROWEST {
            break;
        }
        left -= need;
        columns += 1;
    }
    (left.min(widest), columns)
}

fn legend(screen: Screen) -> String {
    let header = match (screen.terminal, screen.colours) {
        (true, true) => "\x1b[1m\x1b[106m\x1b[30mi\x1b[0m\x1b[0m \x1b[96mInfo → \x1b[0m\x1b[0m",
        (true, false) => "i Info → ",
        (false, _) => " Info -> ",
    };
    format!("{header} {} In Use", screen.chip(true))
}

struct Table {
    screen: Screen,
    name_width: usize,
    columns: usize,
    any_used: bool,
}

impl Table {
    fn cell(&self, tone: Tone, text: &str, width: usize, right: bool) -> String {
        let length = text.chars().count();
        if length > width {
            return self.screen.paint(tone, &shortened(text, width));
        }
        let (text, fill) = (self.screen.paint(tone, text), " ".repeat(width - length));
        if right { fill + &text } else { text + &fill }
    }

    fn cells(&self, tone: Tone, cells: &Cells) -> String {
        let texts = [&cells.id, &cells.usage, &cells.content];
        let mut text = String::new();
        for (at, (_, width, right)) in COLUMNS[..self.columns].iter().enumerate() {
            text += &" ".repeat(SPACING);
            match texts.get(at) {
                Some(cell) => text += &self.cell(tone, cell, *width, *right),
                None => {
                    // The marks carry their own colours.
                    let mark = if self.any_used {
                        self.screen.chip(cells.used)
                    } else {
                        String::new()
                    };
                    let columns = crate::output::transfer::columns(&mark);
                    text += &mark;
                    text += &" ".repeat(width.saturating_sub(columns));
                }
            }
        }
        text
    }

    fn row(&self, row: &Row) -> String {
        let mut text = String::new();
        match row.names.split_last() {
            None => {
                text += &self.cell(Tone::Untagged, "<untagged>", self.name_width, false);
            }
            Some((last, others)) => {
                for name in others {
                    let width = match self.screen.width {
                        0 => usize::MAX,
                        width => width,
                    };
                    text += &self.screen.paint(Tone::Name, &shortened(name, width));
                    text.push('\n');
                }
                text += &self.cell(Tone::Name, last, self.name_width, false);
            }
        }
        text + &self.cells(Tone::Plain, &row.cells)
    }

    fn children(&self, row: &Row) -> String {
        let mut text = String::new();
        for (at, child) in row.children.iter().enumerate() {
            let branch = if at + 1 < row.children.len() {
                "├─ "
            } else {
                "└─ "
            };
            let tone = if child.available {
                Tone::Plain
            } else {
                Tone::Faint
            };
            let name = format!("{branch}{}", child.platform);
            text += &self.cell(tone, &name, self.name_width, false);
            text += &self.cells(tone, &child.cells);
            text.push('\n');
        }
        text
    }
}

/// At most `width` characters, the last an ellipsis when cut.
fn shortened(text: &str, width: usize) -> String {
    crate::output::ellipsis(text, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Vec<Image> {
        serde_json::from_str(
            r#"[{"Id":"sha256:1111111111112222","RepoTags":["z:1","b:2"],"RepoDigests":["z@sha256:1"],"Size":3071357,"Containers":0,
            "Manifests":[{"ID":"sha256:333333333333","Kind":"image","Available":true,"Size":{"Content":1080701,"Total":3071357},
              "ImageData":{"Platform":{"architecture":"amd64","os":"linux"},"Containers":["c"]}},
             {"ID":"sha256:444444444444","Kind":"image","Available":false,"Size":{"Content":0,"Total":0},
              "ImageData":{"Platform":{"architecture":"arm","os":"linux","variant":"v7"},"Containers":null}},
             {"ID":"sha256:5","Kind":"attestation","Available":true,"Size":{"Content":1000,"Total":1000}}]},
            {"Id":"sha256:6666666666667777","RepoTags":null,"RepoDigests":null,"Size":1000,"Containers":0,"Manifests":null}]"#,
        )
        .unwrap()
    }

    fn plain(width: usize) -> Screen {
        Screen {
            width,
            colours: false,
            terminal: false,
        }
    }

    #[test]
    fn a_line_per_name() {
        assert_eq!(
            render(&images(), false, false, plain(0)),
            "IMAGE   ID             DISK USAGE   CONTENT SIZE   EXTRA\n\
             b:2     111111111111       3.07MB         1.08MB   U    \n\
             z:1     111111111111       3.07MB         1.08MB   U    \n"
        );
        let text = render(&images(), true, false, plain(0));
        assert!(
            text.ends_with("<unt…   666666666666          1kB             0B        \n"),
            "{text}"
        );
        assert!(images()[1].is_dangling() && !images()[0].is_dangling());
    }

    #[test]
    fn a_line_per_platform() {
        assert_eq!(
            render(&images()[..1], false, true, plain(0)),
            "IMAGE                 ID             DISK USAGE   CONTENT SIZE   EXTRA\n\
             b:2\n\
             z:1                   111111111111       3.07MB         1.08MB   U    \n\
             ├─ linux/amd64        333333333333       3.07MB         1.08MB   U    \n\
             └─ linux/arm/v7       444444444444           0B             0B        \n\n"
        );
    }

    #[test]
    fn on_a_terminal() {
        let screen = Screen {
            width: 70,
            colours: false,
            terminal: true,
        };
        let text = render(&images(), false, false, screen);
        let first = text.lines().next().unwrap();
        assert_eq!(first.trim_start(), "i Info →   U  In Use");
        assert_eq!(first.chars().count(), 70);
        for width in 20..120 {
            let text = render(&images(), true, true, Screen { width, ..screen });
            for line in text.lines().skip(1) {
                assert!(line.chars().count() <= width, "{width}: {line:?}");
            }
        }
        let coloured = Screen {
            colours: true,
            ..screen
        };
        assert!(render(&images(), false, false, coloured).contains("\x1b[34;1mb:2"));
    }
}
