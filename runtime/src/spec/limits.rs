//! What a container may use at most, from the options that say so.

use super::{Host, units};
use crate::cgroup::{CPU_PERIOD, Limits, Swap};
use crate::error::{Error, Result};
use crate::request::Request;

/// Below this the kernel kills a container before it is one.
const MEMORY_MIN: u64 = 512 << 10;

pub(super) fn limits(request: &Request, host: &Host) -> Result<Limits> {
    let memory = request.memory.as_deref().map(|text| {
        let bytes = units::bytes(text).ok_or_else(|| not_bytes("--memory", text))?;
        match bytes {
            0 => Ok(None),
            1..MEMORY_MIN => {
                Err(Error::option("--memory", text, "the least that a container can run in is 512k"))
            }
            _ => Ok(Some(bytes)),
        }
    });
    let memory = memory.transpose()?.flatten();
    Ok(Limits {
        memory,
        memory_and_swap: swap(request, memory)?,
        cpu_quota: cpu_quota(request, host)?,
        cpuset: cpuset(request, host)?,
        pids: pids(request)?,
        all_devices: request.privileged,
    })
}

pub(super) fn not_bytes(option: &'static str, text: &str) -> Error {
    Error::option(option, text, "is not a number of bytes such as 512k, 128m or 1.5g")
}

fn swap(request: &Request, memory: Option<u64>) -> Result<Swap> {
    let Some(text) = request.memory_swap.as_deref() else { return Ok(Swap::Default) };
    let refuse = |why| Err(Error::option("--memory-swap", text, why));
    match (text, memory) {
        ("0", _) => Ok(Swap::Default),
        (_, None) => refuse("has no meaning without --memory"),
        ("-1", _) => Ok(Swap::Unlimited),
        (_, Some(memory)) => match units::bytes(text).ok_or_else(|| not_bytes("--memory-swap", text))? {
            both if both < memory => {
                refuse("must not be below --memory, for it counts memory and swap together")
            }
            both => Ok(Swap::Bytes(both)),
        },
    }
}

fn cpu_quota(request: &Request, host: &Host) -> Result<Option<u64>> {
    let Some(text) = request.cpus.as_deref() else { return Ok(None) };
    let quota = units::cpu_quota(text)
        .ok_or_else(|| Error::option("--cpus", text, "is not a number of processors such as 0.5"))?;
    let most = u64::from(host.cpus) * CPU_PERIOD;
    match quota {
        0 if text.bytes().all(|byte| matches!(byte, b'0' | b'.')) => Ok(None),
        // The kernel takes no quota below a millisecond (kernel/sched/core.c, min_cfs_quota_period).
        1000.. if quota <= most => Ok(Some(quota)),
        _ => Err(Error::option(
            "--cpus",
            text,
            format!("must be from 0.01 to {}, the processors here", host.cpus),
        )),
    }
}

fn cpuset(request: &Request, host: &Host) -> Result<Option<String>> {
    let Some(text) = request.cpuset_cpus.as_deref() else { return Ok(None) };
    let cpus = units::cpu_list(text)
        .ok_or_else(|| Error::option("--cpuset-cpus", text, "is not a list of processors such as 0-2,4"))?;
    match cpus.iter().find(|cpu| **cpu >= host.cpus) {
        Some(cpu) => {
            let why = format!("there is no processor {cpu}; there are 0-{}", host.cpus.saturating_sub(1));
            Err(Error::option("--cpuset-cpus", text, why))
        }
        None => Ok(Some(text.to_owned())),
    }
}

fn pids(request: &Request) -> Result<Option<u64>> {
    let Some(text) = request.pids_limit.as_deref() else { return Ok(None) };
    match text.parse::<i64>() {
        Ok(0 | -1) => Ok(None),
        Ok(count) if count > 0 => Ok(Some(count.unsigned_abs())),
        _ => Err(Error::option("--pids-limit", text, "is not a number of processes, 0 or -1 for unlimited")),
    }
}
