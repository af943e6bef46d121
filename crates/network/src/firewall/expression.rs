//! nftables expressions: the instructions of a rule
//! (`linux/netfilter/nf_tables.h`). Only those our rules use.

use crate::netlink::attribute::Attributes;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;

const NFT_REG_VERDICT: u32 = 0;

/// A 16-byte register.
#[derive(Clone, Copy, Debug)]
pub(super) enum Register {
    One = 1,
    Two = 2,
}

/// What a packet is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meta {
    InputName = 6,
    OutputName = 7,
    /// One byte: NFPROTO_IPV4 or NFPROTO_IPV6.
    Family = 15,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    Drop = 0,
    Accept = 1,
}

/// The expressions of one rule, in order. Each comparison ends the rule when it
/// does not hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Expressions(Attributes);

impl Expressions {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn encoded(&self) -> &Attributes {
        &self.0
    }

    fn push(self, name: &str, data: &Attributes) -> Self {
        let expression = Attributes::new()
            .string(NFTA_EXPR_NAME, name)
            .nest(NFTA_EXPR_DATA, data);
        Self(self.0.nest(NFTA_LIST_ELEM, &expression))
    }

    /// `meta iifname` and the like, into a register.
    pub(super) fn load(self, key: Meta, register: Register) -> Self {
        const NFTA_META_DREG: u16 = 1;
        const NFTA_META_KEY: u16 = 2;
        let data = Attributes::new()
            .be32(NFTA_META_DREG, register as u32)
            .be32(NFTA_META_KEY, key as u32);
        self.push("meta", &data)
    }

    /// The register is in the set.
    pub(super) fn in_set(self, set: &str, register: Register) -> Self {
        self.lookup(set, register, 0)
    }

    /// The register is not in the set.
    pub(super) fn not_in_set(self, set: &str, register: Register) -> Self {
        const NFT_LOOKUP_F_INV: u32 = 1;
        self.lookup(set, register, NFT_LOOKUP_F_INV)
    }

    fn lookup(self, set: &str, register: Register, flags: u32) -> Self {
        const NFTA_LOOKUP_SET: u16 = 1;
        const NFTA_LOOKUP_SREG: u16 = 2;
        const NFTA_LOOKUP_FLAGS: u16 = 5;
        let data = Attributes::new()
            .string(NFTA_LOOKUP_SET, set)
            .be32(NFTA_LOOKUP_SREG, register as u32)
            .be32(NFTA_LOOKUP_FLAGS, flags);
        self.push("lookup", &data)
    }

    /// `meta nfproto ipv4`
    pub(super) fn ipv4(self) -> Self {
        const NFT_CMP_EQ: u32 = 0;
        const NFPROTO_IPV4: u8 = 2;
        self.load(Meta::Family, Register::One)
            .compare(NFT_CMP_EQ, &[NFPROTO_IPV4])
    }

    /// `ct state established,related`
    pub(super) fn answer(self) -> Self {
        const NFTA_CT_DREG: u16 = 1;
        const NFTA_CT_KEY: u16 = 2;
        const NFT_CT_STATE: u32 = 0;
        const NFTA_BITWISE_SREG: u16 = 1;
        const NFTA_BITWISE_DREG: u16 = 2;
        const NFTA_BITWISE_LEN: u16 = 3;
        const NFTA_BITWISE_MASK: u16 = 4;
        const NFTA_BITWISE_XOR: u16 = 5;
        const ESTABLISHED: u32 = 1 << 1;
        const RELATED: u32 = 1 << 2;
        const NFT_CMP_NEQ: u32 = 1;

        let register = Register::One as u32;
        let state = Attributes::new()
            .be32(NFTA_CT_DREG, register)
            .be32(NFTA_CT_KEY, NFT_CT_STATE);
        let masked = Attributes::new()
            .be32(NFTA_BITWISE_SREG, register)
            .be32(NFTA_BITWISE_DREG, register)
            .be32(NFTA_BITWISE_LEN, 4)
            .nest(
                NFTA_BITWISE_MASK,
                &value(&(ESTABLISHED | RELATED).to_ne_bytes()),
            )
            .nest(NFTA_BITWISE_XOR, &value(&[0; 4]));
        self.push("ct", &state)
            .push("bitwise", &masked)
            .compare(NFT_CMP_NEQ, &[0; 4])
    }

    /// Register one against a constant.
    fn compare(self, operator: u32, constant: &[u8]) -> Self {
        const NFTA_CMP_SREG: u16 = 1;
        const NFTA_CMP_OP: u16 = 2;
        const NFTA_CMP_DATA: u16 = 3;
        let data = Attributes::new()
            .be32(NFTA_CMP_SREG, Register::One as u32)
            .be32(NFTA_CMP_OP, operator)
            .nest(NFTA_CMP_DATA, &value(constant));
        self.push("cmp", &data)
    }

    pub(super) fn verdict(self, verdict: Verdict) -> Self {
        const NFTA_IMMEDIATE_DREG: u16 = 1;
        const NFTA_IMMEDIATE_DATA: u16 = 2;
        let code = Attributes::new().be32(NFTA_VERDICT_CODE, verdict as u32);
        let data = Attributes::new()
            .be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)
            .nest(
                NFTA_IMMEDIATE_DATA,
                &Attributes::new().nest(NFTA_DATA_VERDICT, &code),
            );
        self.push("immediate", &data)
    }

    /// The packet leaves with the address of the interface it leaves through.
    pub(super) fn masquerade(self) -> Self {
        self.push("masq", &Attributes::new())
    }
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::new().bytes(NFTA_DATA_VALUE, bytes)
}
