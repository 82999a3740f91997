// Kernels whose threads wait for something that never comes. The debug build ends such a wait and says which it was; the emulation, told
// to lose a copy or an arrival, ends the same way. Alone: npx vitest run test/cuda/waits.test.ts

import { expect, it } from "vitest";
import { runCase } from "./case_child.ts";
import { cudaDevice, withCuda } from "./support.ts";

const after = "a bug of the kernel; CUDA does not recover from this: start the process again";
const at = String.raw`CTA \d+, thread \d+ \(warpgroup [0-2]\) waited in vain at barrier`;
const phase = String.raw`\(shared offset \d+, phase of parity 0\)`;
const full = `full ${phase}: a consumer waits for a stage to be loaded`;
const empty = `empty ${phase}: the producer waits for a stage to be read`;
const dqTurn = String.raw`dq_turn \(turn \d+, of which [12] should be over\): the adding thread waits for the key blocks before its own`;
const keysFull = `keys_full ${phase}: a consumer waits for a stage of keys`;
const keysEmpty = `keys_empty ${phase}: the producer waits for a stage of keys to be read`;
const dsFull = String.raw`ds_full \(named barrier 1\): a consumer waits for the dS of the other warpgroup`;
const dqFull = `dq_full ${phase}: the adding thread waits for a slab of dQ`;
const rowsFull = `rows_full ${phase}: a consumer waits for the rows of its CTA`;
const turn = String.raw`turn \(named barrier \d\): a consumer waits for its turn to issue products`;
// What is lost, and which waits may be those that last longest.
const hangs: readonly (readonly [lost: string, name: string, words: string])[] = [
  ["copy:1", "grouped_gemm_nt: tiles", `(${full}|${empty})`],
  ["arrival:1", "grouped_gemm_tn: one long expert", `tile_full ${phase}: a consumer waits to be told its tile`],
  ["arrival:12", "grouped_gemm_tn: one long expert", empty],
  ["copy:1", "attention: ", `(${keysFull}|${keysEmpty})`],
  ["copy:2", "attention: ", `(${rowsFull}|${keysEmpty})`],
  ["arrival:1", "attention: ", keysEmpty],
  ["barrier:1", "attention: ", `(${turn}|${keysEmpty})`],
  ["turn:1", "attention_backward: 128 wide", dqTurn],
  ["barrier:1", "attention_backward: 64 wide, grouped", `(${dsFull}|${empty})`],
  ["copy:1", "attention_backward: 64 wide, grouped", `(${rowsFull}|${dqFull}|${empty})`],
  ["barrier:1", "grouped_gemm_nn: tiles, gathered SwiGLU", `(${turn}|${empty})`],
];

withCuda("a wait without end on cuda is an error that names it", () => {
  for (const [lost, name, words] of hangs)
    for (const schedule of ["eager", "late"])
      it(`${lost} of ${name}, ${schedule}`, (test) => {
        if (!cudaDevice()?.info.emulated) return test.skip("only the emulation loses anything");
        const { submitted, waited, again } = runCase(name, { ESFT_EMU_LOSE: lost, ESFT_EMU_SCHEDULE: schedule });
        const message = submitted ?? waited;
        expect(message).toMatch(new RegExp(`^${name.replace(/:.*/, "")}: ${at} ${words};`));
        expect(message).toContain(after);
        expect([waited, again]).toEqual([message, message]); // and not "unspecified launch failure"
      }, 300_000);
});
