//! Limits → the OCI `resources` section.

use berth_api::Error;
use berth_api::container::{HostConfig, ThrottleDevice};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, LinuxThrottleDevice,
    LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
};

use super::devices;
use crate::error::IntoApi as _;

pub(crate) fn build(config: &HostConfig) -> Result<LinuxResources, Error> {
    let mut resources = limits(config)?;
    resources.set_devices(Some(devices::rules(config)?));
    Ok(resources)
}

/// Everything but the device rules; what is not set is left out, so that this
/// also describes an update.
pub(crate) fn limits(config: &HostConfig) -> Result<LinuxResources, Error> {
    let positive = |value: i64| (value > 0).then_some(value);
    let set = |value: i64| (value != 0).then_some(value);
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    let unsigned = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);

    let mut memory = LinuxMemory::default();
    memory
        .set_limit(positive(config.memory))
        .set_reservation(positive(config.memory_reservation))
        .set_swap(set(config.memory_swap))
        .set_swappiness(
            config
                .memory_swappiness
                .and_then(|value| u64::try_from(value).ok()),
        )
        .set_disable_oom_killer(config.oom_kill_disable.filter(|disable| *disable));

    let mut cpu = LinuxCpu::default();
    cpu.set_shares(unsigned(config.cpu_shares))
        .set_cpus(text(&config.cpuset_cpus))
        .set_mems(text(&config.cpuset_mems))
        .set_realtime_period(unsigned(config.cpu_realtime_period))
        .set_realtime_runtime(set(config.cpu_realtime_runtime));
    if config.nano_cpus > 0 {
        // 100 ms, as Docker.
        cpu.set_period(Some(100_000))
            .set_quota(Some(config.nano_cpus / 10_000));
    } else {
        cpu.set_period(unsigned(config.cpu_period))
            .set_quota(set(config.cpu_quota));
    }

    let mut block = LinuxBlockIo::default();
    block.set_weight((config.blkio_weight != 0).then_some(config.blkio_weight));
    if let Some(list) = &config.blkio_weight_device {
        let list = list.iter().map(|device| {
            let (major, minor) = devices::block_numbers(&device.path)?;
            LinuxWeightDeviceBuilder::default()
                .major(major)
                .minor(minor)
                .weight(device.weight)
                .build()
                .api()
        });
        block.set_weight_device(Some(list.collect::<Result<_, Error>>()?));
    }
    block
        .set_throttle_read_bps_device(throttles(config.blkio_device_read_bps.as_deref())?)
        .set_throttle_write_bps_device(throttles(config.blkio_device_write_bps.as_deref())?)
        .set_throttle_read_iops_device(throttles(config.blkio_device_read_iops.as_deref())?)
        .set_throttle_write_iops_device(throttles(config.blkio_device_write_iops.as_deref())?);

    let mut resources = LinuxResources::default();
    resources
        .set_memory(Some(memory).filter(|memory| *memory != LinuxMemory::default()))
        .set_cpu(Some(cpu).filter(|cpu| *cpu != LinuxCpu::default()))
        .set_block_io(Some(block).filter(|block| *block != LinuxBlockIo::default()));
    if let Some(limit) = config.pids_limit.filter(|limit| *limit != 0) {
        let mut pids = LinuxPids::default();
        pids.set_limit(if limit < 0 { -1 } else { limit });
        resources.set_pids(Some(pids));
    }
    Ok(resources)
}

fn throttles(list: Option<&[ThrottleDevice]>) -> Result<Option<Vec<LinuxThrottleDevice>>, Error> {
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return Ok(None);
    };
    list.iter()
        .map(|device| {
            let (major, minor) = devices::block_numbers(&device.path)?;
            LinuxThrottleDeviceBuilder::default()
                .major(major)
                .minor(minor)
                .rate(device.rate)
                .build()
                .api()
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_set_is_named() {
        let nothing = limits(&HostConfig::default()).unwrap();
        assert!(nothing.memory().is_none() && nothing.cpu().is_none() && nothing.pids().is_none());
        let resources = limits(&HostConfig {
            memory: 64 << 20,
            memory_swap: -1,
            nano_cpus: 1_500_000_000,
            pids_limit: Some(-1),
            ..HostConfig::default()
        })
        .unwrap();
        let memory = resources.memory().as_ref().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(-1)));
        let cpu = resources.cpu().as_ref().unwrap();
        assert_eq!((cpu.period(), cpu.quota()), (Some(100_000), Some(150_000)));
        assert_eq!(resources.pids().as_ref().unwrap().limit(), -1);
    }
}
