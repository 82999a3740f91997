// A dry run of the survey that is killed (SIGKILL) at a random moment leaves a report that can be read and that claims nothing which did
// not happen; nothing goes on computing. The moment's seed is printed; ESFT_SURVEY_SEED repeats it.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import { statusOf } from "../../scripts/survey/record.ts";
import type { Survey } from "../../scripts/survey/record.ts";
import { stages } from "../../scripts/survey/stages.ts";
import { cudaLibrary, withCuda } from "../cuda/support.ts";
import { Random } from "../ops/host.ts";

const seed = Number(process.env["ESFT_SURVEY_SEED"] ?? Date.now() % 1_000_000);

/** Processes whose command line names this folder. */
const computing = (dir: string): string[] =>
  readdirSync("/proc").filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(dir);
    } catch {
      return false; // gone meanwhile
    }
  });

async function until(what: () => boolean, seconds: number): Promise<boolean> {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await sleep(50)) if (what()) return true;
  return what();
}

withCuda("a survey that is killed", () => {
  it.each([2, 12])(
    "leaves what it has found (within %i s)",
    async (within) => {
      const moment = new Random(`${seed} ${within}`).uniform() * within;
      console.log(`survey: killed after ${moment.toFixed(2)} s, ESFT_SURVEY_SEED=${seed}`);
      const dir = mkdtempSync(join(tmpdir(), "esft-cut-"));
      try {
        const run = spawn(process.execPath, ["--import", "tsx", "scripts/survey/main.ts", "--dry-run", "--out", dir], {
          env: { ...process.env, ESFT_CUDA_LIBRARY: cudaLibrary! },
          stdio: "ignore",
        });
        const gone = new Promise((resolve) => run.on("exit", resolve));
        const [json, page] = [join(dir, "survey.json"), join(dir, "survey.md")];
        expect(await until(() => existsSync(page), 60)).toBe(true);
        await sleep(moment * 1000);
        run.kill("SIGKILL");
        await gone;

        const survey = JSON.parse(readFileSync(json, "utf8")) as Survey;
        const text = readFileSync(page, "utf8");
        expect(survey.stages.map((s) => s.name)).toEqual(stages.map((s) => s.name));
        for (const s of survey.stages) {
          expect(s.status).toBe(statusOf(s));
          if (s.status === "ok") expect(s.items.filter((i) => i.status === "ok").length).toBeGreaterThan(0);
          expect(text).toContain(`| ${s.name} | `);
        }
        // Stages are over, at most one runs, the others wait: in this order.
        const order = survey.stages.map((s) => ["over", "running", "waiting"].indexOf(s.state));
        expect(order).toEqual(order.toSorted());
        expect(order.filter((x) => x === 1).length).toBeLessThanOrEqual(1);
        expect(survey.ended).toBeNull();
        expect(text).toContain("not ended");
        expect(await until(() => computing(dir).length === 0, 20), `still there: ${computing(dir).join()}`).toBe(true);
      } finally {
        rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
      }
    },
    180_000,
  );
});
