"""Bytes and collectives of compiled programs, on texts whose numbers are known."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.compiled.hlo import Program
from benchmarks.compiled.program_text import array_bytes, bytes_in_memory

TEXT = """HloModule test, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%sliced (p0: f32[8,128], p1: s32[]) -> f32[1,128] {
  %p0 = f32[8,128]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,128]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,128}
}

%updated (q0: f32[8,128], q1: f32[1,128], q2: s32[]) -> f32[8,128] {
  %q0 = f32[8,128]{1,0} parameter(0)
  %q1 = f32[1,128]{1,0} parameter(1)
  %q2 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %new = f32[8,128]{1,0} dynamic-update-slice(%q0, %q1, %q2, %zero.1)
}

%body (t: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %t = (s32[], f32[8,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[8,128]{1,0} get-tuple-element(%t), index=1
  %one = f32[1,128]{1,0} fusion(%x, %i), kind=kLoop, calls=%sliced
  %all = f32[8,128]{1,0} fusion(%x, %one, %i), kind=kLoop, calls=%updated
  ROOT %out = (s32[], f32[8,128]{1,0}) tuple(%i, %all)
}

%cond (u: (s32[], f32[8,128])) -> pred[] {
  %u = (s32[], f32[8,128]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (x.1: f32[8,128], w: bf16[4,100]) -> f32[8,128] {
  %x.1 = f32[8,128]{1,0} parameter(0)
  %w = bf16[4,100]{1,0:T(8,128)(2,1)} parameter(1)
  %start = s32[] constant(0)
  %copy-start = (bf16[4,100]{1,0:T(8,128)(2,1)S(1)}, bf16[4,100]{1,0:T(8,128)(2,1)}, \
u32[]{:S(2)}) copy-start(%w)
  %copy-done = bf16[4,100]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %call = (f32[8,128]{1,0}, s8[4096]{0}) custom-call(%x.1, %copy-done), \
custom_call_target="__cudnn$fmhaSoftmax"
  %got = f32[8,128]{1,0} get-tuple-element(%call), index=0
  %reduced = f32[8,128]{1,0} all-reduce(%got), replica_groups={}, to_apply=%add
  %init = (s32[], f32[8,128]{1,0}) tuple(%start, %reduced)
  %loop = (s32[], f32[8,128]{1,0}) while(%init), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  ROOT %end = f32[8,128]{1,0} get-tuple-element(%loop), index=1
}
"""
BIG, ROW, SCALAR, SMALL = 8 * 128 * 4, 128 * 4, 4, 4 * 100 * 2
PADDED = 8 * 128 * 2


def test_sizes():
    assert array_bytes("bf16", "64,196") == 25088
    assert array_bytes("pred", "") == 1 and array_bytes("s4", "3") == 2
    assert array_bytes("f8e4m3fn", "10") == 10 and array_bytes("f32", "<=16") == 64
    assert bytes_in_memory("bf16", "4,100", "1,0:T(8,128)(2,1)") == PADDED
    assert bytes_in_memory("bf16", "4,100", "0,1:T(8,128)(2,1)") == 104 * 128 * 2
    assert bytes_in_memory("f32", "1000", "0:T(1024)") == 4096
    assert bytes_in_memory("bf16", "4,100", "1,0:T(8,128)S(1)") == 0
    assert bytes_in_memory("bf16", "4,100", "") == SMALL


def test_kernels():
    program = Program(TEXT)
    kernels = {kernel.name: kernel for kernel in program.kernels}
    assert set(kernels) == {"copy-start", "call", "reduced", "one", "all"}
    # Whole: operands and results, workspace too; a loop as often as it runs.
    assert kernels["copy-start"].whole == 2 * SMALL
    assert kernels["call"].whole == BIG + SMALL + BIG + 4096
    assert kernels["call"].operation == "__cudnn$fmhaSoftmax"
    assert kernels["reduced"].whole == 2 * BIG
    assert kernels["one"].whole == 5 * (BIG + SCALAR + ROW) and kernels["one"].runs == 5
    assert kernels["all"].whole == 5 * (2 * BIG + ROW + SCALAR)
    # Moved: padded tiles, nothing on the chip, slices and updates alone, no workspace.
    assert kernels["copy-start"].moved == PADDED
    assert kernels["call"].moved == 2 * BIG and kernels["call"].workspace == 4096
    assert kernels["one"].moved == 5 * (ROW + SCALAR + ROW)
    assert kernels["all"].moved == 5 * (ROW + SCALAR + ROW)
    assert program.total("workspace") == 4096 and program.unknown_loops == 0
    assert program.collectives == {"all-reduce": (1, BIG)}


def test_an_unknown_loop_counts_once_and_is_told():
    program = Program(TEXT.replace('{"known_trip_count":{"n":"5"}}', "{}"))
    assert program.unknown_loops == 1
    assert {k.runs for k in program.kernels} == {1}


def test_alike_kernels_are_one_line():
    text = TEXT.replace("calls=%sliced", 'calls=%sliced, metadata={op_name="jit(f)/layer1/a"}')
    text = text.replace("calls=%updated", 'calls=%updated, metadata={op_name="jit(f)/layer2/a"}')
    first = next(row for row in Program(text).alike() if row["source"] == "layer#/a")
    assert first["runs"] == 10 and first["operation"] == "fusion"


def test_a_program_of_this_machine():
    def f(x, w):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=7)[0]

    x = jnp.zeros((16, 16))
    program = Program(jax.jit(f).lower(x, x).compile().as_text())
    assert program.unknown_loops == 0
    assert max(kernel.runs for kernel in program.kernels) == 7
    products = [k for k in program.kernels if k.runs == 7 and k.whole >= 7 * 2 * 16 * 16 * 4]
    assert products


BRANCHES = """HloModule test

%light (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  ROOT %n = f32[4]{0} negate(%a)
}

%heavy (b: f32[4]) -> f32[4] {
  %b = f32[4]{0} parameter(0)
  %c = f32[4]{0} exponential(%b)
  ROOT %d = f32[4]{0} negate(%c)
}

%gathered (e: f32[4]) -> f32[16] {
  %e = f32[4]{0} parameter(0)
  ROOT %g = f32[16]{0} all-gather(%e), dimensions={0}
}

ENTRY %main (p: s32[], x: f32[4], y: f32[64]) -> f32[4] {
  %p = s32[] parameter(0)
  %x = f32[4]{0} parameter(1)
  %y = f32[64]{0} parameter(2)
  %one = f32[4]{0} conditional(%p, %x, %x), branch_computations={%light, %heavy}
  %two = f32[4]{0} call(%one), to_apply=%light
  %start = ((f32[4]{0}), f32[16]{0}, s32[]) async-start(%two), calls=%gathered
  %done = f32[16]{0} async-done(%start)
  %slice-start = ((f32[64]{0}), f32[8]{0:S(1)}, s32[]{:S(2)}) slice-start(%y), slice={[0:8]}
  %slice-done = f32[8]{0:S(1)} slice-done(%slice-start)
  %sum-start = f32[16]{0} all-reduce-start(%done), to_apply=%light
  %sum = f32[16]{0} all-reduce-done(%sum-start)
  ROOT %out = f32[4]{0} add(%two, %two)
}
"""


def test_branches_calls_and_asynchronous_operations():
    program = Program(BRANCHES)
    names = sorted(kernel.name for kernel in program.kernels)
    assert names == ["c", "d", "g", "n", "out", "slice-start", "sum-start"]
    kernels = {kernel.name: kernel for kernel in program.kernels}
    assert kernels["g"].whole == 16 + 64
    assert kernels["sum-start"].whole == 64 + 64
    # A slice of 8 numbers, from memory onto the chip.
    assert kernels["slice-start"].whole == 2 * 32 and kernels["slice-start"].moved == 32
    assert kernels["out"].whole == 3 * 16
    assert program.collectives == {"all-gather": (1, 64), "all-reduce": (1, 64)}


def test_no_program():
    with pytest.raises(ValueError, match="ENTRY"):
        Program("nothing")
