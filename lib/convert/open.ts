// An adapter of any layout, as a directory or by its name on the hub: ours, the official ESFT one, a LoRA folder of PEFT. The last two need their base.

import { pathArgument } from "../arguments.ts";
import { readdir } from "node:fs/promises";
import { loadArgument } from "../adapter/adapter.ts";
import type { Adapter, LoadAdapterOptions } from "../adapter/adapter.ts";
import { openAdapter as openOwn } from "../adapter/esft_layout.ts";
import { isAdapterDir } from "../adapter/folder.ts";
import { layoutFault } from "../files/fault.ts";
import { adapterFolder } from "../hub/folder.ts";
import { throwIfAborted } from "../task.ts";
import { isPeftFolder } from "./peft_config.ts";

/** @throws LayoutError no adapter, one of another base, or one that cannot be honoured whole · NonFiniteError · IoError */
export async function openAdapter(adapter: string, options: LoadAdapterOptions = {}): Promise<Adapter> {
  pathArgument(adapter, "openAdapter: dir");
  loadArgument(options, "openAdapter: options");
  const dir = await adapterFolder(adapter, { signal: options.signal, onProgress: options.onProgress });
  if ((await isAdapterDir(dir)) || !isPeftFolder(await readdir(dir).catch(() => []))) return openOwn(dir, options);
  const { base } = options;
  if (!base)
    throw layoutFault(
      dir,
      "a PEFT folder does not say what its tensors are to the model: open it together with its base (--base DIR, or the option base)",
    );
  const { readPeftAdapter } = await import("./peft_read.ts"); // loads the addon, which what opens adapters alone must do without
  const opened = await readPeftAdapter(dir, base);
  await opened.checkBase(base, options);
  if (options.verify ?? true)
    for (const key of opened.attached.keys()) {
      throwIfAborted(options.signal, `loading ${dir}`);
      await opened.read(key);
    }
  return opened;
}
