//! Further processes in running containers.

use berth_api::Error;
use berth_api::exec::{ExecConfig, ExecStart};
use berth_api::version::ApiVersion;
use hyper::StatusCode;

use crate::containers::size;
use crate::hijack::Hijack;
use crate::reply::{self, Reply};
use crate::{Call, connection, extract, versions};

pub(crate) async fn create(call: Call) -> Result<Reply, Error> {
    let mut config: ExecConfig = extract::json(&call.head.headers, call.body)
        .await?
        .unwrap_or_default();
    versions::exec_config(call.version, &mut config);
    if config.cmd.is_empty() {
        return Err(Error::invalid("no exec command specified"));
    }
    let (engine, name) = (call.engine, call.name);
    let created = Call::finish(call.guard, async move {
        engine.exec_create(&name, config).await
    })
    .await?;
    reply::json(StatusCode::CREATED, &created)
}

pub(crate) async fn start(call: Call) -> Result<Reply, Error> {
    let mut options: ExecStart = extract::json(&call.head.headers, call.body)
        .await?
        .unwrap_or_default();
    if call.version < ApiVersion(1, 42) || !options.tty {
        options.console_size = None;
    }
    let narrow = |cells: u32| u16::try_from(cells).unwrap_or(u16::MAX);
    let [rows, columns] = options.console_size.unwrap_or_default().map(narrow);
    let (detach, tty) = (options.detach, options.tty);

    let (engine, id) = (call.engine, call.name);
    let exec = engine.exec_inspect(&id).await?;
    if exec.running || exec.exit_code.is_some() {
        let state = if exec.running {
            "is already running"
        } else {
            "has already exited"
        };
        return Err(Error::conflict(format!("Error: Exec command {id} {state}")));
    }
    let stdin = exec.open_stdin;
    let start = Call::finish(call.guard, async move {
        engine.exec_start(&id, detach, tty, (columns, rows)).await
    });
    if detach {
        start.await?;
        return Ok(reply::status(StatusCode::OK));
    }
    // The connection is taken over before the outcome is known, as Docker does:
    // clients show what the stream says and then ask for the exit status (126,
    // 127), which an HTTP error would hide.
    let start = async {
        start
            .await?
            .ok_or_else(|| Error::system("the exec was started without a stream"))
    };
    let upgrade = connection::wants_upgrade(&call.head.headers);
    let hijack = Hijack::new(upgrade, call.version, tty, stdin, start);
    Ok(call.hijack.take_over(hijack).await)
}

pub(crate) async fn resize(call: Call) -> Result<Reply, Error> {
    let (width, height) = size(&call.query)?;
    call.engine.exec_resize(&call.name, width, height).await?;
    Ok(reply::status(StatusCode::OK))
}

pub(crate) async fn inspect(call: Call) -> Result<Reply, Error> {
    reply::ok(&call.engine.exec_inspect(&call.name).await?)
}
