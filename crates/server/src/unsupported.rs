//! Documented operations that this engine does not have, each with the reason.

use berth_api::version::ApiVersion;
use berth_api::{Error, Kind};
use hyper::Method;

/// Why an operation is refused.
#[derive(Clone, Copy, Debug)]
enum Why {
    /// Not written: the sentence begins with this.
    Unwritten(&'static str),
    /// It needs a swarm manager, which this node is not.
    NeedsManager,
    /// It needs a swarm, of which this node is no part.
    NeedsSwarm,
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
            Unwritten(what) => {
                Error::not_implemented(format!("{what} is not supported by berth yet"))
            }
            NeedsManager => Error::new(
                Kind::Unavailable,
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
            ),
            NeedsSwarm => Error::new(Kind::Unavailable, "This node is not part of a swarm"),
        }
    }
}

use Why::{NeedsManager, NeedsSwarm, Unwritten};

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

const COPY: Why = Unwritten("copying files to and from containers");
const BUILD: Why = Unwritten("BuildKit's interface");
const CHECKPOINT: Why = Unwritten("checkpointing containers");
const NETWORKS: Why = Unwritten("managing networks");
const PLUGINS: Why = Unwritten("managing plugins");
const SWARM: Why = Unwritten("swarm mode");

pub(crate) static MISSING: &[Missing] = missing! {
    HEAD   "/containers/{}/archive"        24 => COPY;
    GET    "/containers/{}/archive"        24 => COPY;
    PUT    "/containers/{}/archive"        24 => COPY;
    GET    "/containers/{}/changes"        24 => Unwritten("listing changed files of containers");
    GET    "/containers/{}/attach/ws"      24 => Unwritten("attaching through a websocket");
    GET    "/containers/{}/checkpoints"    25 => CHECKPOINT;
    POST   "/containers/{}/checkpoints"    25 => CHECKPOINT;

    POST   "/session"                      31 => BUILD;
    POST   "/grpc"                         24 => BUILD;

    GET    "/images/{}/attestations"       55 => Unwritten("listing attestations of images");

    PUT    "/volumes/{}"                   42 => NeedsManager;

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
    POST   "/swarm/leave"                  24 => NeedsSwarm;
    POST   "/swarm/unlock"                 24 => NeedsSwarm;
    GET    "/swarm"                        24 => NeedsManager;
    POST   "/swarm/update"                 24 => NeedsManager;
    GET    "/swarm/unlockkey"              24 => NeedsManager;
    GET    "/nodes"                        24 => NeedsManager;
    GET    "/nodes/{}"                     24 => NeedsManager;
    DELETE "/nodes/{}"                     24 => NeedsManager;
    POST   "/nodes/{}/update"              24 => NeedsManager;
    GET    "/services"                     24 => NeedsManager;
    POST   "/services/create"              24 => NeedsManager;
    GET    "/services/{}/logs"             25 => NeedsManager;
    GET    "/services/{}"                  24 => NeedsManager;
    DELETE "/services/{}"                  24 => NeedsManager;
    POST   "/services/{}/update"           24 => NeedsManager;
    GET    "/tasks"                        24 => NeedsManager;
    GET    "/tasks/{}/logs"                29 => NeedsManager;
    GET    "/tasks/{}"                     24 => NeedsManager;
    GET    "/secrets"                      25 => NeedsManager;
    POST   "/secrets/create"               25 => NeedsManager;
    GET    "/secrets/{}"                   25 => NeedsManager;
    DELETE "/secrets/{}"                   25 => NeedsManager;
    POST   "/secrets/{}/update"            26 => NeedsManager;
    GET    "/configs"                      30 => NeedsManager;
    POST   "/configs/create"               30 => NeedsManager;
    GET    "/configs/{}"                   30 => NeedsManager;
    DELETE "/configs/{}"                   30 => NeedsManager;
    POST   "/configs/{}/update"            30 => NeedsManager;
};
