//! Documented operations that this engine does not have, each with the reason.

use berth_api::version::ApiVersion;
use berth_api::{Error, Kind};
use hyper::Method;

/// Why an operation is refused.
#[derive(Clone, Copy, Debug)]
enum Why {
    /// Not written: the sentence begins with this.
    NotYet(&'static str),
    /// It needs a swarm manager, which this node is not.
    NotManager,
    /// It needs a swarm, of which this node is no part.
    NotInSwarm,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Missing {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) since: ApiVersion,
    why: Why,
}

impl Missing {
    pub(crate) fn error(&self) -> Error {
        match self.why {
            NotYet(what) => Error::not_implemented(format!("{what} is not supported by berth yet")),
            NotManager => Error::new(
                Kind::Unavailable,
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
            ),
            NotInSwarm => Error::new(Kind::Unavailable, "This node is not part of a swarm"),
        }
    }
}

use Why::{NotInSwarm, NotManager, NotYet};

macro_rules! missing {
    ($($method:ident $path:literal $since:literal => $why:expr;)*) => {
        &[$(Missing {
            method: Method::$method,
            path: $path,
            since: ApiVersion(1, $since),
            why: $why,
        }),*]
    };
}

const COPY: Why = NotYet("copying files to and from containers");
const BUILD: Why = NotYet("building images");
const CHECKPOINT: Why = NotYet("checkpointing containers");
const VOLUMES: Why = NotYet("managing volumes");
const NETWORKS: Why = NotYet("managing networks");
const PLUGINS: Why = NotYet("managing plugins");
const REGISTRY: Why = NotYet("talking to registries");
const SAVE: Why = NotYet("saving images");
const SWARM: Why = NotYet("swarm mode");

pub(crate) static MISSING: &[Missing] = missing! {
    HEAD   "/containers/{}/archive"        24 => COPY;
    GET    "/containers/{}/archive"        24 => COPY;
    PUT    "/containers/{}/archive"        24 => COPY;
    GET    "/containers/{}/changes"        24 => NotYet("listing changed files of containers");
    GET    "/containers/{}/export"         24 => NotYet("exporting containers");
    GET    "/containers/{}/attach/ws"      24 => NotYet("attaching through a websocket");
    GET    "/containers/{}/checkpoints"    25 => CHECKPOINT;
    POST   "/containers/{}/checkpoints"    25 => CHECKPOINT;
    POST   "/commit"                       24 => NotYet("making images from containers");

    POST   "/build"                        24 => BUILD;
    POST   "/build/prune"                  31 => BUILD;
    POST   "/build/cancel"                 24 => BUILD;
    POST   "/session"                      31 => BUILD;
    POST   "/grpc"                         24 => BUILD;

    GET    "/images/{}/attestations"       55 => NotYet("listing attestations of images");
    POST   "/images/{}/push"               24 => REGISTRY;
    GET    "/images/search"                24 => REGISTRY;
    GET    "/distribution/{}/json"         30 => REGISTRY;
    POST   "/auth"                         24 => REGISTRY;
    POST   "/images/prune"                 25 => NotYet("pruning images");
    GET    "/images/get"                   24 => SAVE;
    GET    "/images/{}/get"                24 => SAVE;
    GET    "/system/df"                    25 => NotYet("reporting disk usage");

    GET    "/volumes"                      24 => VOLUMES;
    POST   "/volumes/create"               24 => VOLUMES;
    POST   "/volumes/prune"                25 => VOLUMES;
    GET    "/volumes/{}"                   24 => VOLUMES;
    PUT    "/volumes/{}"                   42 => NotManager;
    DELETE "/volumes/{}"                   24 => VOLUMES;

    POST   "/networks/create"              24 => NETWORKS;
    POST   "/networks/prune"               25 => NETWORKS;
    POST   "/networks/{}/connect"          24 => NETWORKS;
    POST   "/networks/{}/disconnect"       24 => NETWORKS;
    DELETE "/networks/{}"                  24 => NETWORKS;

    GET    "/plugins"                      25 => PLUGINS;
    GET    "/plugins/privileges"           25 => PLUGINS;
    POST   "/plugins/pull"                 25 => PLUGINS;
    POST   "/plugins/create"               25 => PLUGINS;
    GET    "/plugins/{}/json"              25 => PLUGINS;
    DELETE "/plugins/{}"                   25 => PLUGINS;
    POST   "/plugins/{}/enable"            25 => PLUGINS;
    POST   "/plugins/{}/disable"           25 => PLUGINS;
    POST   "/plugins/{}/upgrade"           26 => PLUGINS;
    POST   "/plugins/{}/push"              25 => PLUGINS;
    POST   "/plugins/{}/set"               25 => PLUGINS;

    POST   "/swarm/init"                   24 => SWARM;
    POST   "/swarm/join"                   24 => SWARM;
    POST   "/swarm/leave"                  24 => NotInSwarm;
    POST   "/swarm/unlock"                 24 => NotInSwarm;
    GET    "/swarm"                        24 => NotManager;
    POST   "/swarm/update"                 24 => NotManager;
    GET    "/swarm/unlockkey"              24 => NotManager;
    GET    "/nodes"                        24 => NotManager;
    GET    "/nodes/{}"                     24 => NotManager;
    DELETE "/nodes/{}"                     24 => NotManager;
    POST   "/nodes/{}/update"              24 => NotManager;
    GET    "/services"                     24 => NotManager;
    POST   "/services/create"              24 => NotManager;
    GET    "/services/{}/logs"             25 => NotManager;
    GET    "/services/{}"                  24 => NotManager;
    DELETE "/services/{}"                  24 => NotManager;
    POST   "/services/{}/update"           24 => NotManager;
    GET    "/tasks"                        24 => NotManager;
    GET    "/tasks/{}/logs"                29 => NotManager;
    GET    "/tasks/{}"                     24 => NotManager;
    GET    "/secrets"                      25 => NotManager;
    POST   "/secrets/create"               25 => NotManager;
    GET    "/secrets/{}"                   25 => NotManager;
    DELETE "/secrets/{}"                   25 => NotManager;
    POST   "/secrets/{}/update"            26 => NotManager;
    GET    "/configs"                      30 => NotManager;
    POST   "/configs/create"               30 => NotManager;
    GET    "/configs/{}"                   30 => NotManager;
    DELETE "/configs/{}"                   30 => NotManager;
    POST   "/configs/{}/update"            30 => NotManager;
};
