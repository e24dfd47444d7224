//! Reading a few instructions: from the place where a label's address is taken to the function that gets it, and
//! what arguments that function has.
//!
//! Both walk real control flow from an address known to be code, with a bound on instructions, and follow values by
//! register: the vote counts only where the label itself is the second argument of the call.
//!
//! Invariant: an instruction is decoded only at an address that control flow reaches from the start.

use super::elf::Elf;
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess,
    Register,
};
use std::io;

/// Instructions followed from one reference.
const STEPS: usize = 96;
/// Instructions looked at in one function.
const FUNCTION_STEPS: usize = 256;
/// Bytes of code read at a time.
const BLOCK: usize = 256;
/// Longest x86 instruction.
const INSTRUCTION: usize = 15;

/// Where the label went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Targets of `jmp` instructions met with the label in `rsi`: a tail call, if a function begins there, else a
    /// jump within the function.
    pub tails: Vec<u64>,
    /// Target of the first direct call met with the label in `rsi`.
    pub call: Option<u64>,
}

/// Decodes a file's instructions by address.
pub struct Decoding<'a> {
    elf: &'a Elf<'a>,
    block: [u8; BLOCK],
    at: u64,
    filled: usize,
    info: InstructionInfoFactory,
}

impl<'a> Decoding<'a> {
    pub fn new(elf: &'a Elf<'a>) -> Self {
        Self {
            elf,
            block: [0; BLOCK],
            at: 0,
            filled: 0,
            info: InstructionInfoFactory::new(),
        }
    }

    /// The instruction at `address`; `None` if it is not valid code.
    pub(super) fn decode(&mut self, address: u64) -> io::Result<Option<Instruction>> {
        let held = address
            .checked_sub(self.at)
            .and_then(|within| usize::try_from(within).ok())
            .filter(|&within| within + INSTRUCTION <= self.filled);
        let within = match held {
            Some(within) => within,
            None if self.elf.is_code(address) => {
                self.filled = self.elf.read(address, &mut self.block)?;
                self.at = address;
                0
            }
            None => return Ok(None),
        };
        let bytes = &self.block[within..self.filled];
        let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
        let instruction = decoder.decode();
        Ok((!instruction.is_invalid()).then_some(instruction))
    }

    /// Follows the value taken by the instruction at `reference` to the function that gets it as its second argument.
    pub fn route(&mut self, reference: u64) -> io::Result<Route> {
        let mut route = Route::default();
        let Some(first) = self.decode(reference)? else {
            return Ok(route);
        };
        let mut label = Registers::default();
        label.insert(first.op0_register());
        let mut paths = vec![(first.next_ip(), label)];
        let mut visited = Vec::new();
        while let Some((mut address, mut label)) = paths.pop() {
            while visited.len() < STEPS && !visited.contains(&address) && !label.is_empty() {
                visited.push(address);
                let Some(instruction) = self.decode(address)? else {
                    break;
                };
                address = instruction.next_ip();
                let held = label.contains(Register::RSI);
                match instruction.flow_control() {
                    FlowControl::Call if held && is_near(&instruction) => {
                        route.call = Some(instruction.near_branch_target());
                        return Ok(route);
                    }
                    FlowControl::Call | FlowControl::IndirectCall => label.call(),
                    FlowControl::UnconditionalBranch if is_near(&instruction) => {
                        address = instruction.near_branch_target();
                        if held && !route.tails.contains(&address) {
                            route.tails.push(address);
                        }
                    }
                    FlowControl::ConditionalBranch if is_near(&instruction) => {
                        paths.push((instruction.near_branch_target(), label));
                    }
                    FlowControl::Next => self.propagate(&instruction, &mut label),
                    _ => break,
                }
            }
        }
        Ok(route)
    }

    /// Whether the function at `entry` reads its third and fourth argument (`rdx`, `rcx`) as they came: the form
    /// `f(session, label, secret, length)`. The first two may pass through it untouched.
    pub fn reads_secret_and_length(&mut self, entry: u64) -> io::Result<bool> {
        let mut read = Registers::default();
        let mut paths = vec![(entry, Registers::of(&[Register::RDX, Register::RCX]))];
        let mut visited = Vec::new();
        while let Some((mut address, mut intact)) = paths.pop() {
            while visited.len() < FUNCTION_STEPS
                && !visited.contains(&address)
                && !intact.is_empty()
            {
                visited.push(address);
                let Some(instruction) = self.decode(address)? else {
                    break;
                };
                address = instruction.next_ip();
                self.note_reads(&instruction, &mut intact, &mut read);
                if read.contains(Register::RDX) && read.contains(Register::RCX) {
                    return Ok(true);
                }
                match instruction.flow_control() {
                    FlowControl::Next => {}
                    FlowControl::ConditionalBranch if is_near(&instruction) => {
                        paths.push((instruction.near_branch_target(), intact));
                    }
                    FlowControl::UnconditionalBranch if is_near(&instruction) => {
                        address = instruction.near_branch_target();
                    }
                    // After a call the argument registers are anyone's.
                    _ => break,
                }
            }
        }
        Ok(false)
    }

    /// Where a function that is only a `jmp` leads (a thunk of the linker), else `entry`.
    pub fn through_thunk(&mut self, entry: u64) -> io::Result<u64> {
        let Some(mut instruction) = self.decode(entry)? else {
            return Ok(entry);
        };
        if instruction.code() == Code::Endbr64 {
            match self.decode(instruction.next_ip())? {
                Some(next) => instruction = next,
                None => return Ok(entry),
            }
        }
        let is_thunk =
            instruction.flow_control() == FlowControl::UnconditionalBranch && is_near(&instruction);
        Ok(if is_thunk {
            instruction.near_branch_target()
        } else {
            entry
        })
    }

    /// Whether the instruction at `reference` takes `target`, by itself and not by its bytes alone.
    pub fn takes(&mut self, reference: u64, target: u64) -> io::Result<bool> {
        Ok(self.decode(reference)?.is_some_and(|instruction| {
            instruction.op0_register().is_gpr()
                && if instruction.is_ip_rel_memory_operand() {
                    instruction.code() == Code::Lea_r64_m
                        && instruction.ip_rel_memory_address() == target
                } else {
                    matches!(
                        instruction.code(),
                        Code::Mov_r32_imm32 | Code::Mov_rm64_imm32 | Code::Mov_rm32_imm32
                    ) && instruction.immediate(1) == target
                }
        }))
    }

    /// Registers of which `instruction` changes any part.
    pub(super) fn written(&mut self, instruction: &Instruction) -> Vec<Register> {
        let used = self.info.info(instruction).used_registers();
        used.iter()
            .filter(|used| writes(used.access()) && used.register().is_gpr())
            .map(|used| used.register().full_register())
            .collect()
    }

    /// Which registers hold the label after an instruction that does not branch.
    fn propagate(&mut self, instruction: &Instruction, label: &mut Registers) {
        let source = (instruction.op_count() == 2 && instruction.op1_register().is_gpr64())
            .then(|| instruction.op1_register())
            .filter(|&register| label.contains(register));
        let target = instruction.op0_register();
        match instruction.code() {
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64 if source.is_some() && target.is_gpr64() => {
                label.insert(target);
                return;
            }
            // The label is one of two that the code chooses from: it counts as held.
            code if source.is_some() && is_conditional_move(code) => {
                label.insert(target);
                return;
            }
            code if is_conditional_move(code) => return,
            _ => {}
        }
        for used in self.info.info(instruction).used_registers() {
            if writes(used.access()) {
                label.remove(used.register());
            }
        }
    }

    fn note_reads(
        &mut self,
        instruction: &Instruction,
        intact: &mut Registers,
        read: &mut Registers,
    ) {
        let used = self.info.info(instruction).used_registers();
        for register in used.iter().filter(|used| reads(used.access())) {
            if intact.contains(register.register()) {
                read.insert(register.register());
            }
        }
        for register in used.iter().filter(|used| writes(used.access())) {
            intact.remove(register.register());
        }
    }
}

fn is_near(instruction: &Instruction) -> bool {
    instruction.is_call_near()
        || instruction.is_jmp_short_or_near()
        || instruction.is_jcc_short_or_near()
}

fn is_conditional_move(code: Code) -> bool {
    (Code::Cmovo_r16_rm16..=Code::Cmovg_r64_rm64).contains(&code)
}

fn reads(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

/// A set of the 16 general registers, whatever part of them is named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Registers(u16);

impl Registers {
    fn of(registers: &[Register]) -> Self {
        let mut set = Self::default();
        for &register in registers {
            set.insert(register);
        }
        set
    }

    fn bit(register: Register) -> u16 {
        if register.is_gpr() {
            1 << (register.full_register().number() & 15)
        } else {
            0
        }
    }

    fn insert(&mut self, register: Register) {
        self.0 |= Self::bit(register);
    }

    fn remove(&mut self, register: Register) {
        self.0 &= !Self::bit(register);
    }

    fn contains(self, register: Register) -> bool {
        self.0 & Self::bit(register) != 0
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What a call leaves: System V AMD64 ABI, figure 3.4 "Register Usage".
    fn call(&mut self) {
        let kept = [
            Register::RBX,
            Register::RBP,
            Register::R12,
            Register::R13,
            Register::R14,
            Register::R15,
        ];
        self.0 &= Self::of(&kept).0;
    }
}
