// The same call on GPUs of other generations and with other rooms for clusters: which kernels serve it, and that its bits are those of
// the same kernels elsewhere. Alone: npx vitest run test/cuda/generations.test.ts

import { expect, it } from "vitest";
import { runCase } from "./case_child.ts";
import { cudaDevice, withCuda } from "./support.ts";

const patience = 300_000;
const good = { submitted: null, waited: null, again: null };

withCuda("generations of GPUs", () => {
  for (const name of ["grouped_gemm_nt: tiles, SwiGLU", "attention: "])
    it(
      `one newer than sm_90 takes the portable kernels: ${name}`,
      (test) => {
        if (!cudaDevice()?.info.emulated) return test.skip("the GPU is what it is");
        const portable = runCase(name, { ESFT_EMU_ARCH: "80" });
        expect(portable).toMatchObject({ ...good, instructionSet: "sm_80" });
        expect(runCase(name, { ESFT_EMU_ARCH: "100" })).toEqual({ ...portable, instructionSet: "sm_100" });
      },
      patience,
    );

  // Three would fit by the number of multiprocessors; fewer run at the same time where a group of them is odd, or others use the GPU. The
  // emulation refuses to start more.
  it(
    "clusters are as many as run at the same time, and none where none fits",
    (test) => {
      if (!cudaDevice()?.info.emulated) return test.skip("the GPU is what it is");
      const name = "grouped_gemm_nt: tiles, SwiGLU";
      const alone = runCase(name, { ESFT_CUDA_CLUSTER: "1" });
      expect(alone).toMatchObject(good);
      for (const clusters of ["3", "1", "0"])
        expect(runCase(name, { ESFT_CUDA_CLUSTER: "2", ESFT_EMU_SMS: "7", ESFT_EMU_CLUSTERS: clusters }), clusters).toEqual(alone);
    },
    patience,
  );

  // How many tiles a CTA takes, and how many heads their blocks of keys side by side, follows the number of multiprocessors; the order of a
  // sum does not.
  it(
    "attention has the same bits on any number of multiprocessors",
    (test) => {
      if (!cudaDevice()?.info.emulated) return test.skip("the GPU is what it is");
      for (const name of ["attention: 64 wide, grouped, documents", "attention_backward: 64 wide, grouped, documents"]) {
        const three = runCase(name, {});
        expect(three).toMatchObject(good);
        for (const sms of ["1", "132"]) expect(runCase(name, { ESFT_EMU_SMS: sms }), sms).toEqual(three);
      }
    },
    patience,
  );
});
