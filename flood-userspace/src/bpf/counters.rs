//! Reading the per-processor counters.

use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use flood_common::abi::{self, Count, CpuState, InterfaceCounters};

use super::{error::BpfError, plain::Plain};

/// The counters of the filter.
pub struct CounterTable {
    interfaces: PerCpuArray<MapData, Plain<InterfaceCounters>>,
    state: PerCpuArray<MapData, Plain<CpuState>>,
}

impl CounterTable {
    pub(super) fn new(
        interfaces: PerCpuArray<MapData, Plain<InterfaceCounters>>,
        state: PerCpuArray<MapData, Plain<CpuState>>,
    ) -> Self {
        Self { interfaces, state }
    }

    /// Returns what all processors together counted on the interface in `slot`.
    pub fn interface(&self, slot: u32) -> Result<InterfaceCounters, BpfError> {
        let per_cpu =
            self.interfaces.get(&slot, 0).map_err(|source| BpfError::map(abi::map::COUNTERS, &source))?;
        let mut sum = InterfaceCounters::default();
        for Plain(InterfaceCounters { done, would }) in per_cpu.iter() {
            add_all(&mut sum.done, done);
            add_all(&mut sum.would, would);
        }
        Ok(sum)
    }

    /// Sets the counters of the interface in `slot` to zero. Nothing may be counting there.
    pub(super) fn reset(&mut self, slot: u32) -> Result<(), BpfError> {
        let zero = |_| Plain(InterfaceCounters::default());
        let processors =
            aya::util::nr_cpus().map_err(|(_, error)| BpfError::map(abi::map::COUNTERS, &error.into()))?;
        let values = PerCpuValues::try_from((0..processors).map(zero).collect::<Vec<_>>())
            .map_err(|error| BpfError::map(abi::map::COUNTERS, &error.into()))?;
        self.interfaces.set(slot, values, 0).map_err(|error| BpfError::map(abi::map::COUNTERS, &error))
    }

    /// Returns the sums over all processors of what else they count: samples taken and lost, trace lines suppressed.
    /// Fields without a meaningful sum are 0.
    pub fn state(&self) -> Result<CpuState, BpfError> {
        let per_cpu = self.per_cpu()?;
        let mut sum = CpuState::default();
        for Plain(state) in per_cpu.iter() {
            let CpuState {
                sampler: _,
                sampled,
                samples_lost,
                trace_suppressed,
                reason: _,
                action: _,
                class: _,
                exceeded: _,
                leases: _,
            } = state;
            sum.sampled += sampled;
            sum.samples_lost += samples_lost;
            sum.trace_suppressed += trace_suppressed;
        }
        Ok(sum)
    }

    /// Returns, for each processor, the number of the cell that the last packet over a limit has exceeded there.
    pub fn exceeded(&self) -> Result<Vec<u64>, BpfError> {
        Ok(self.per_cpu()?.iter().map(|Plain(state)| state.exceeded).collect())
    }

    fn per_cpu(&self) -> Result<PerCpuValues<Plain<CpuState>>, BpfError> {
        self.state.get(&0, 0).map_err(|source| BpfError::map(abi::map::CPU_STATE, &source))
    }
}

fn add_all(sums: &mut [Count], more: &[Count]) {
    for (sum, Count { packets, bytes }) in sums.iter_mut().zip(more) {
        sum.packets = sum.packets.wrapping_add(*packets);
        sum.bytes = sum.bytes.wrapping_add(*bytes);
    }
}
