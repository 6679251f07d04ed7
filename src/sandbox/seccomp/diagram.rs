//! A decision diagram over the words of `struct seccomp_data`, and the BPF program
//! that it becomes. It knows no names, numbers or actions.
//!
//! Equal nodes are one node, so that ways to the same answer share their end; and
//! a test whose outcome an earlier one has decided is left out. The kernel
//! translates every instruction in the time of a cold start.

use std::collections::HashMap;

use seccompiler::{BpfProgram, sock_filter};

use super::facts::Facts;

/// What is looked at: a 32-bit word, and which of its bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Look {
    /// Its place in `struct seccomp_data`, in bytes.
    pub(super) offset: u32,
    /// The bits that count.
    pub(super) mask: u32,
}

/// A question with two answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Test {
    /// The bits that count are these.
    Equal(Look, u32),
    /// The word, all of it, is this or more.
    AtLeast(u32, u32),
}

/// The number of a node. A node's branches have lower numbers than itself.
pub(super) type Id = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Node {
    /// The end: what seccomp(2) calls the return value.
    Return(u32),
    /// `yes` where the test holds, else `no`.
    Branch { test: Test, yes: Id, no: Id },
}

/// All nodes, each once.
#[derive(Debug, Default)]
pub(super) struct Diagram {
    nodes: Vec<Node>,
    known: HashMap<Node, Id>,
}

/// How many nodes [`Diagram::simplify`] may look at: filters of which it would make
/// more than it saves stay as they are.
const PATIENCE: usize = 2000;

impl Diagram {
    /// The end with the value `value`.
    pub(super) fn give(&mut self, value: u32) -> Id {
        self.node(Node::Return(value))
    }

    /// `yes` where `test` holds, else `no`.
    pub(super) fn branch(&mut self, test: Test, yes: Id, no: Id) -> Id {
        if yes == no { yes } else { self.node(Node::Branch { test, yes, no }) }
    }

    fn node(&mut self, node: Node) -> Id {
        *self.known.entry(node).or_insert_with(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        })
    }

    /// What means the same as `id`, without tests that are decided already.
    pub(super) fn simplify(&mut self, id: Id) -> Id {
        let mut patience = PATIENCE;
        self.simplify_below(id, &Facts::default(), &mut patience)
    }

    fn simplify_below(&mut self, id: Id, facts: &Facts, patience: &mut usize) -> Id {
        let Node::Branch { test, yes, no } = self.nodes[id] else { return id };
        match facts.decide(test) {
            Some(true) => return self.simplify_below(yes, facts, patience),
            Some(false) => return self.simplify_below(no, facts, patience),
            None if *patience == 0 => return id,
            None => *patience -= 1,
        }
        let yes = self.simplify_below(yes, &facts.and(test, true), patience);
        let no = self.simplify_below(no, &facts.and(test, false), patience);
        self.branch(test, yes, no)
    }

    /// The program that begins at `root`.
    pub(super) fn program(&self, root: Id) -> BpfProgram {
        let loads = self.loads(root);
        let mut writer = Writer { reversed: Vec::new(), at: HashMap::new() };
        // Branches have lower numbers, and BPF jumps forward only: what is jumped to is written first.
        for id in (0..=root).filter(|id| loads.contains_key(id)) {
            match self.nodes[id] {
                Node::Return(value) => writer.end(id, value),
                Node::Branch { test, yes, no } => {
                    let ends = [yes, no].map(|id| match self.nodes[id] {
                        Node::Return(value) => Some(value),
                        Node::Branch { .. } => None,
                    });
                    let held = [yes, no].map(|id| self.look(id));
                    writer.branch(id, test, [yes, no], ends, held);
                    writer.load(id, test.look(), loads[&id]);
                }
            }
        }
        writer.reversed.into_iter().rev().collect()
    }

    /// The word that a branch needs in the accumulator.
    fn look(&self, id: Id) -> Option<Look> {
        match self.nodes[id] {
            Node::Return(_) => None,
            Node::Branch { test, .. } => Some(test.look()),
        }
    }

    /// Every node that is reached, and whether some way to it comes without its word.
    fn loads(&self, root: Id) -> HashMap<Id, bool> {
        let mut loads = HashMap::from([(root, true)]);
        for id in (0..=root).rev() {
            if let (true, Node::Branch { test, yes, no }) = (loads.contains_key(&id), self.nodes[id]) {
                for next in [yes, no] {
                    let other = self.look(next).is_some_and(|look| look != test.look());
                    *loads.entry(next).or_default() |= other;
                }
            }
        }
        loads
    }
}

impl Test {
    /// What must be in the accumulator. A comparison of bits with 0, or of one
    /// bit, is one instruction on the whole word (BPF_JSET).
    fn look(self) -> Look {
        match self {
            Self::Equal(look, value) if value != 0 && !look.mask.is_power_of_two() => look,
            Self::Equal(Look { offset, .. }, _) | Self::AtLeast(offset, _) => Look { offset, mask: u32::MAX },
        }
    }

    /// The instruction, and whether it jumps where the test fails.
    fn instruction(self) -> (u16, u32, bool) {
        match self {
            Self::AtLeast(_, bound) => (JUMP_GE, bound, false),
            Self::Equal(Look { mask: u32::MAX, .. }, value) => (JUMP_EQ, value, false),
            Self::Equal(Look { mask, .. }, 0) => (JUMP_SET, mask, true),
            Self::Equal(Look { mask, .. }, _) if mask.is_power_of_two() => (JUMP_SET, mask, false),
            Self::Equal(_, value) => (JUMP_EQ, value, false),
        }
    }
}

/// Writes a program from its end.
struct Writer {
    reversed: Vec<sock_filter>,
    /// Where each node begins, from the end: with its load, and behind it.
    at: HashMap<Id, (usize, usize)>,
}

impl Writer {
    fn end(&mut self, id: Id, value: u32) {
        self.reversed.push(statement(RETURN, value));
        let here = self.reversed.len();
        self.at.insert(id, (here, here));
    }

    fn branch(&mut self, id: Id, test: Test, next: [Id; 2], ends: [Option<u32>; 2], held: [Option<Look>; 2]) {
        let look = test.look();
        // A way that is too long for a conditional jump gets a stop behind it; an end, a copy of its own.
        let mut targets = [0; 2];
        for which in [1, 0] {
            let (whole, behind) = self.at[&next[which]];
            targets[which] = if held[which] == Some(look) { behind } else { whole };
            // The other way's stop and the instruction itself may come between.
            if self.reversed.len() + 1 - targets[which] > usize::from(u8::MAX) {
                match ends[which] {
                    Some(value) => self.end(next[which], value),
                    None => {
                        self.reversed.push(statement(JUMP, (self.reversed.len() - targets[which]) as u32))
                    }
                }
                targets[which] = self.reversed.len();
            }
        }
        let (code, k, inverted) = test.instruction();
        let [yes, no] = targets.map(|target| (self.reversed.len() - target) as u8);
        let (jt, jf) = if inverted { (no, yes) } else { (yes, no) };
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.at.insert(id, (self.reversed.len(), self.reversed.len()));
    }

    /// What the branch that has just been written needs in the accumulator, where it is not there already.
    fn load(&mut self, id: Id, look: Look, needed: bool) {
        let behind = self.reversed.len();
        if needed {
            if look.mask != u32::MAX {
                self.reversed.push(statement(AND, look.mask));
            }
            self.reversed.push(statement(LOAD, look.offset));
        }
        self.at.insert(id, (self.reversed.len(), behind));
    }
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP_SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}
