// Who may include whom in csrc: npx tsx scripts/check-includes.ts [ROOT], part of `npm run check`. One line per include that breaks a rule.
// All rules are the two tables below. Includes are relative to their file; headers of the emulation are found by name, as CMake has it.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

interface Room {
  /** A folder of csrc, without its subfolders. */
  at: string;
  /** The rooms whose headers its files may include, besides its own. */
  uses: readonly string[];
  /** Its headers from the bottom to the top: each may include only those before it. */
  order?: readonly string[];
  /** The only headers that other rooms may include; without it all. */
  doors?: readonly string[];
}

const contracts = ["core", "ops"];

// prettier-ignore
export const rooms: readonly Room[] = [
  { at: "core", uses: [] },
  { at: "ops", uses: ["core"] },
  { at: "quant", uses: ["core"], order: ["floats.h", "gguf.h", "packed_weight.h"], doors: ["packed_weight.h"] },

  { at: "cpu", uses: contracts, order: ["simd.h", "activation.h", "integers.h", "context.h", "kernels.h"] },
  { at: "cpu/rows", uses: [...contracts, "cpu"], order: ["rows.h", "sample_select.h"] },
  { at: "cpu/attention", uses: [...contracts, "cpu"], order: ["attention_tile.h", "attention_pack.h", "attention_shape.h", "attention_rows.h", "attention_forward.h", "attention_window.h",
      "attention_gradients.h", "delta_products.h", "delta_chunk.h"] },
  { at: "cpu/gemm", uses: [...contracts, "cpu", "cpu/rows"],
    order: ["gemm_vec.h", "gemm_panel.h", "gemm_micro.h", "gemm_pack.h", "gemm_block.h", "gemm_narrow.h", "gemm_stream.h", "gemm_engine.h", "gemm_tasks.h"] },
  { at: "cpu/device", uses: [...contracts, "cpu"], order: ["backend.h", "memory.h", "isa.h"], doors: ["backend.h"] },

  // The emulation stands in for CUDA's own headers: it knows nothing of ours, and csrc/cuda asks it for the two that nvcc does not need.
  { at: "emu", uses: [], doors: ["emu.h", "ptx_emu.h"] },
  { at: "emu/test", uses: ["core", "ops", "emu", "cuda", "cuda/host", "cuda/gemm"] },

  { at: "cuda", uses: [...contracts, "emu"], order: ["fault.h", "bounded_wait.cuh", "ptx_wgmma.cuh", "ptx.cuh", "types.cuh", "activation.cuh", "reduce.cuh", "fault.cuh"] },
  { at: "cuda/host", uses: [...contracts, "emu", "cuda"], order: ["allocator.h", "tensor_map.h", "context.h", "early_start.cuh", "launch.h", "device.h"] },
  { at: "cuda/rows", uses: [...contracts, "cuda", "cuda/host"],
    order: ["rows.cuh", "map.cuh", "index_check.cuh", "documents.cuh", "column_sum.cuh", "supervised_rows.cuh", "rms_norm.cuh", "float_keys.cuh", "topk_route.cuh",
      "sample.cuh"] },
  { at: "cuda/attention", uses: [...contracts, "cuda", "cuda/host", "cuda/rows"],
    order: ["attention_tile.cuh", "attention.cuh", "attention_cached.cuh", "attention_backward.cuh", "attention_backward_sm90.cuh",
      "attention_backward_one_sm90.cuh", "delta_chunk.cuh"] },
  { at: "cuda/gemm", uses: [...contracts, "cuda", "cuda/host", "cuda/rows"],
    order: ["split_count.cuh", "logit_finish.cuh", "mma_params.h", "gemm_paths.h", "split_sum.cuh", "activation_rows.cuh", "linear_cross_entropy.cuh",
      "mma_tile.cuh", "mma_schedule.cuh", "mma_epilogue.cuh", "mma_gemm.cuh",
      "sm90_shape.cuh", "sm90_params.cuh", "sm90_tile.cuh", "sm90_instance.cuh", "sm90_load.cuh", "sm90_epilogue.cuh", "sm90_kernel.cuh", "gemm_sm90.h", "sm90_start.cuh"] },

  { at: "addon", uses: [...contracts, "quant", "cpu/device"] },
];

/** Headers of others, in angle brackets: which rooms (and what lies in them) may include them. */
const outside = [
  { headers: /^(napi|node_api|js_native_api|uv)\b/, only: ["addon"], name: "N-API" },
  { headers: /^cuda/, only: ["cuda", "emu"], name: "CUDA" },
];

/** The files of csrc by their path in it; what they break, one line each. */
export function violations(files: ReadonlyMap<string, string>): string[] {
  const found: string[] = [];
  for (const [file, text] of files) {
    if (!/\.(h|cuh|cc|cu)$/.test(file)) continue;
    const room = roomOf(file);
    const name = path.posix.basename(file);
    if (!room) {
      found.push(`csrc/${file}: its folder is not in the table of scripts/check-includes.ts`);
      continue;
    }
    const height = room.order?.indexOf(name) ?? -1;
    if (room.order && isHeader(name) && height < 0) found.push(`csrc/${file}: not in the order of ${room.at} in scripts/check-includes.ts`);
    for (const [index, line] of text.split("\n").entries()) {
      const [, open, spelled] = /^\s*#\s*include\s*(["<])([^">]+)[">]/.exec(line) ?? [];
      if (spelled === undefined) continue;
      const wrong = open === "<" ? wrongOutside(room, spelled) : wrongInside(room, file, height, spelled, files);
      if (wrong) found.push(`csrc/${file}:${index + 1} includes ${spelled}: ${wrong}`);
    }
  }
  return found;
}

const isHeader = (name: string): boolean => /\.(h|cuh)$/.test(name);
const roomOf = (file: string): Room | undefined => rooms.find(({ at }) => at === path.posix.dirname(file));

function wrongOutside(room: Room, header: string): string | null {
  const rule = outside.find(({ headers }) => headers.test(header));
  if (!rule || rule.only.some((at) => room.at === at || room.at.startsWith(`${at}/`))) return null;
  return `only ${rule.only.join(" and ")} may see ${rule.name}`;
}

function wrongInside(room: Room, file: string, height: number, spelled: string, files: ReadonlyMap<string, string>): string | null {
  const target = [path.posix.dirname(file), "emu"].map((from) => path.posix.join(from, spelled)).find((at) => files.has(at));
  if (target === undefined) return "no such file";
  const to = roomOf(target);
  const name = path.posix.basename(target);
  if (to === room) {
    const other = room.order?.indexOf(name) ?? -1;
    return height >= 0 && other >= height ? `${name} lies above it in the order of ${room.at}` : null;
  }
  if (!to || !room.uses.includes(to.at)) return `${room.at} may use ${room.uses.join(", ") || "no other room"}`;
  if (to.doors && !to.doors.includes(name)) return `of ${to.at} others may include ${to.doors.join(", ")} alone`;
  return null;
}

/** csrc under `root`. */
export function readSources(root: string): Map<string, string> {
  const csrc = path.join(root, "csrc");
  if (!existsSync(csrc)) throw new Error(`check-includes: no ${csrc}`);
  const entries = readdirSync(csrc, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return new Map(
    entries
      .map((entry) => path.join(entry.parentPath, entry.name))
      .sort()
      .map((file) => [path.relative(csrc, file).split(path.sep).join("/"), readFileSync(file, "utf8")]),
  );
}

if (process.argv[1] && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const found = violations(readSources(process.argv[2] ?? path.resolve(import.meta.dirname, "..")));
  for (const line of found) console.log(line);
  process.exitCode = found.length > 0 ? 1 : 0;
}
