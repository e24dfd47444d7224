//! A short run of code with symbols for what is in registers and memory: where, seen from the beginning, a call finds
//! its arguments.
//!
//! Straight on: a conditional jump is not taken (bounds checks and error paths jump away), a direct call is taken for
//! `as_ref` of a buffer with its length behind it and keeps what the ABI says, the first indirect call is the end.
//! What cannot be followed is unknown. A wrong guess is harmless: a point proves itself by opening a record.
//!
//! Invariant: bounded by [`STEPS`].

use super::code::Decoding;
use super::places::{self, Place};
use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};
use std::io;

/// Instructions run.
const STEPS: usize = 80;
/// Bytes of the buffer in rustls's `OkmBlock`, which `as_ref` gives as far as the count behind says.
const BUFFER: i64 = 64;

/// What a register or 8 bytes of memory hold, by what was there at the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Value {
    #[default]
    Unknown,
    Constant(u64),
    /// register + offset
    Sum(Register, i64),
    /// The 8 bytes at register + offset.
    Loaded(Register, i64),
    /// The 8 bytes at register + offset, then + offset.
    Past(Register, i64, i64),
    /// The 8 bytes there.
    Behind(Register, i64, i64),
}

impl Value {
    fn plus(self, by: i64) -> Self {
        match self {
            Self::Constant(value) => Self::Constant(value.wrapping_add_signed(by)),
            Self::Sum(register, offset) => Self::Sum(register, offset.wrapping_add(by)),
            _ if by == 0 => self,
            Self::Loaded(register, first) => Self::Past(register, first, by),
            Self::Past(register, first, second) => {
                Self::Past(register, first, second.wrapping_add(by))
            }
            Self::Behind(..) | Self::Unknown => Self::Unknown,
        }
    }

    /// The 8 bytes at this address, as they were at the beginning.
    fn loaded(self) -> Self {
        match self {
            Self::Sum(register, offset) => Self::Loaded(register, offset),
            Self::Loaded(register, first) => Self::Behind(register, first, 0),
            Self::Past(register, first, second) => Self::Behind(register, first, second),
            Self::Constant(_) | Self::Behind(..) | Self::Unknown => Self::Unknown,
        }
    }

    /// For a probe at the beginning; `None` if it is not known, or in a register for which `there` says no.
    pub fn place(self, there: impl Fn(Register) -> bool) -> Option<Place> {
        let short = |offset| i32::try_from(offset).ok();
        let named = |register: Register| {
            there(register)
                .then(|| places::Register::from_number(register.number()))
                .flatten()
        };
        Some(match self {
            Self::Unknown => return None,
            Self::Constant(value) => Place::Constant(i32::try_from(value).ok()?),
            Self::Sum(register, 0) => Place::In(named(register)?),
            Self::Sum(register, offset) => Place::Sum(named(register)?, short(offset)?),
            Self::Loaded(register, offset) => Place::At(named(register)?, short(offset)?),
            Self::Past(register, first, second) => {
                Place::Past(named(register)?, short(first)?, short(second)?)
            }
            Self::Behind(register, first, second) => {
                Place::Behind(named(register)?, short(first)?, short(second)?)
            }
        })
    }
}

/// Registers and memory at some instruction.
pub struct State {
    registers: [Value; 16],
    /// Latest last: address, bytes, what was written.
    written: Vec<(Value, usize, Value)>,
}

impl State {
    pub fn new() -> Self {
        let mut registers = [Value::Unknown; 16];
        for (number, value) in registers.iter_mut().enumerate() {
            *value = Value::Sum(Register::RAX + number as u32, 0);
        }
        Self {
            registers,
            written: Vec::new(),
        }
    }

    pub fn register(&self, register: Register) -> Value {
        let full = register.full_register();
        if full.is_gpr64() {
            self.registers[full.number() & 15]
        } else {
            Value::Unknown
        }
    }

    fn set(&mut self, register: Register, value: Value) {
        let full = register.full_register();
        if full.is_gpr64() {
            self.registers[full.number() & 15] = value;
        }
    }

    /// The 8 bytes at the top of the stack.
    pub fn top(&self) -> Value {
        self.load(self.register(Register::RSP))
    }

    fn load(&self, address: Value) -> Value {
        for (at, size, value) in self.written.iter().rev() {
            if *at == address && *size == 8 {
                return *value;
            }
            if overlap(*at, *size, address) {
                return Value::Unknown;
            }
        }
        address.loaded()
    }

    fn store(&mut self, address: Value, size: usize, value: Value) {
        self.written.push((address, size, value));
    }

    /// `None` where it is not an address of memory.
    fn address(&self, instruction: &Instruction) -> Value {
        if instruction.is_ip_rel_memory_operand() {
            return Value::Constant(instruction.ip_rel_memory_address());
        }
        if instruction.memory_index() != Register::None {
            return Value::Unknown;
        }
        let displacement = instruction.memory_displacement64().cast_signed();
        match instruction.memory_base() {
            Register::None => Value::Constant(displacement.cast_unsigned()),
            base => self.register(base).plus(displacement),
        }
    }

    /// The value of operand `index`, if it has 8 bytes, or is a constant.
    fn operand(&self, instruction: &Instruction, index: u32) -> Value {
        match instruction.op_kind(index) {
            OpKind::Register => {
                let register = instruction.op_register(index);
                match self.register(register) {
                    value if register.is_gpr64() => value,
                    Value::Constant(value) if register.is_gpr32() => {
                        Value::Constant(value & 0xffff_ffff)
                    }
                    _ => Value::Unknown,
                }
            }
            OpKind::Memory if instruction.memory_size().size() == 8 => {
                self.load(self.address(instruction))
            }
            OpKind::Memory => Value::Unknown,
            _ => instruction
                .try_immediate(index)
                .map_or(Value::Unknown, Value::Constant),
        }
    }

    /// One instruction that does not branch.
    fn step(&mut self, instruction: &Instruction, decoding: &mut Decoding<'_>) {
        let into_register = instruction.op0_kind() == OpKind::Register;
        let target = instruction.op0_register();
        let whole = into_register && (target.is_gpr64() || target.is_gpr32());
        match instruction.mnemonic() {
            Mnemonic::Mov if whole => {
                let value = self.operand(instruction, 1);
                self.set(target, value);
            }
            Mnemonic::Lea if whole => {
                let value = self.address(instruction);
                self.set(target, value);
            }
            Mnemonic::Xor if whole && target == instruction.op1_register() => {
                self.set(target, Value::Constant(0));
            }
            Mnemonic::Add | Mnemonic::Sub if whole => {
                let value = match self.operand(instruction, 1) {
                    Value::Constant(by) => {
                        let by = by.cast_signed();
                        let subtract = instruction.mnemonic() == Mnemonic::Sub;
                        self.operand(instruction, 0).plus(if subtract {
                            by.wrapping_neg()
                        } else {
                            by
                        })
                    }
                    _ => Value::Unknown,
                };
                self.set(target, value);
            }
            Mnemonic::Push => {
                let value = self.operand(instruction, 0);
                let top = self.register(Register::RSP).plus(-8);
                self.set(Register::RSP, top);
                self.store(top, 8, value);
            }
            Mnemonic::Pop => {
                let top = self.register(Register::RSP);
                let value = self.load(top);
                self.set(Register::RSP, top.plus(8));
                if into_register {
                    self.set(target, value);
                } else {
                    self.store(self.address(instruction), 8, value);
                }
            }
            _ => {
                for register in decoding.written(instruction) {
                    self.set(register, Value::Unknown);
                }
                if instruction.op0_kind() == OpKind::Memory
                    && !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test)
                {
                    let value = match instruction.mnemonic() {
                        Mnemonic::Mov => self.operand(instruction, 1),
                        _ => Value::Unknown,
                    };
                    let size = instruction.memory_size().size().max(1);
                    self.store(self.address(instruction), size, value);
                }
            }
        }
    }

    /// What a call leaves: System V AMD64 ABI, figure 3.4 "Register Usage".
    fn call(&mut self) {
        let buffer = self.register(Register::RDI);
        let length = self.load(buffer.plus(BUFFER));
        for register in [
            Register::RCX,
            Register::RDX,
            Register::RSI,
            Register::RDI,
            Register::R8,
            Register::R9,
            Register::R10,
            Register::R11,
        ] {
            self.set(register, Value::Unknown);
        }
        self.set(Register::RAX, buffer);
        self.set(Register::RDX, length);
    }
}

fn overlap(at: Value, size: usize, address: Value) -> bool {
    let (Value::Sum(base, start), Value::Sum(other, from)) = (at, address) else {
        return false;
    };
    base == other
        && from < start.saturating_add_unsigned(size as u64)
        && start < from.saturating_add(8)
}

/// A register that a call keeps, or the stack's.
pub fn is_kept(register: Register) -> bool {
    matches!(
        register,
        Register::RBX
            | Register::RSP
            | Register::RBP
            | Register::R12
            | Register::R13
            | Register::R14
            | Register::R15
    )
}

/// Runs from `start` to the first indirect call; its address, and what it is given. With `tested`, `al` was not 0 when
/// the first conditional jump asks; the others are not taken.
pub fn run(
    decoding: &mut Decoding<'_>,
    start: u64,
    mut tested: bool,
) -> io::Result<Option<(u64, State)>> {
    let mut state = State::new();
    let mut address = start;
    for _ in 0..STEPS {
        let Some(instruction) = decoding.decode(address)? else {
            return Ok(None);
        };
        address = instruction.next_ip();
        match instruction.flow_control() {
            FlowControl::Next => state.step(&instruction, decoding),
            FlowControl::IndirectCall => return Ok(Some((instruction.ip(), state))),
            FlowControl::Call => state.call(),
            FlowControl::UnconditionalBranch if instruction.is_jmp_short_or_near() => {
                address = instruction.near_branch_target();
            }
            FlowControl::ConditionalBranch if instruction.is_jcc_short_or_near() => {
                if std::mem::take(&mut tested) && instruction.mnemonic() == Mnemonic::Jne {
                    address = instruction.near_branch_target();
                }
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}
