//! The memory that there is.

use anyhow::{Context, Result};
use candle_core::Device;
use sysinfo::{CGroupLimits, ProcessRefreshKind, ProcessesToUpdate, System};
use vlmd_kernels::Place;

/// A device as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) place: Place,
    /// Bytes that are free before the model is there.
    pub(crate) free: u64,
}

impl Machine {
    /// A device and what is free on it now.
    pub(crate) fn of(device: &Device) -> Result<Self> {
        Ok(Self {
            place: Place::of(device),
            free: free_memory(device)?,
        })
    }
}

/// Memory that is free on `device`: of the machine or of the container, whichever is less.
pub(crate) fn free_memory(device: &Device) -> Result<u64> {
    if let Some(free) = vlmd_kernels::free_cuda_memory(device)? {
        return Ok(free);
    }
    let mut system = System::new().context("cannot tell how much memory is free")?;
    system.refresh_memory();
    Ok(available(system.available_memory(), limits(&mut system)))
}

/// The limits of this process's own control group, or else of the topmost one that it can see.
fn limits(system: &mut System) -> Option<CGroupLimits> {
    let own = sysinfo::get_current_pid().ok().and_then(|pid| {
        let this = ProcessesToUpdate::Some(&[pid]);
        system.refresh_processes_specifics(this, false, ProcessRefreshKind::nothing());
        system.process(pid)?.cgroup_limits()
    });
    own.or_else(|| system.cgroup_limits())
}

/// Free bytes of a machine that has `machine` of them, within a control group.
fn available(machine: u64, group: Option<CGroupLimits>) -> u64 {
    // Not `free_memory`, which takes pages of files for lost: the checkpoint's own fill a group
    // while it is fetched and read, and are dropped when their place is needed.
    group.map_or(machine, |group| {
        group.total_memory.saturating_sub(group.rss).min(machine)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_files_do_not_count_as_used() {
        let group = |total_memory, rss| {
            Some(CGroupLimits {
                total_memory,
                free_memory: 0,
                free_swap: 0,
                rss,
            })
        };
        assert_eq!(available(1000, None), 1000);
        assert_eq!(available(1000, group(800, 300)), 500);
        assert_eq!(available(400, group(800, 300)), 400);
        assert_eq!(available(1000, group(800, 900)), 0);
    }

    #[test]
    fn this_machine_has_memory() {
        let free = free_memory(&Device::Cpu).unwrap();
        let mut system = System::new().unwrap();
        system.refresh_memory();
        assert!((1..=system.total_memory()).contains(&free), "{free}");
    }
}
