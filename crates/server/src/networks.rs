//! `/networks`.

use berth_api::Error;

use crate::Call;
use crate::reply::{self, Reply};

pub(crate) async fn list(call: Call) -> Result<Reply, Error> {
    reply::ok(&call.engine.network_list(&call.query.filters()?).await?)
}

pub(crate) async fn inspect(call: Call) -> Result<Reply, Error> {
    let scope = call.query.text("scope");
    let network = call.engine.network_inspect(&call.name).await?;
    if scope.is_empty() || scope == network.scope {
        reply::ok(&network)
    } else {
        Err(Error::not_found(format!("network {} not found", call.name)))
    }
}
