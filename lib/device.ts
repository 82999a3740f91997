// Which device to compute on. "cuda" is asked for and must be there; "auto" takes it when it is there and says why not.

import { optionsArgument } from "./arguments.ts";
import { debug } from "./debug.ts";
import { ConfigError, KernelError } from "./errors.ts";
import { shown } from "./options.ts";
import type { Precision } from "./ops.ts";
import { Device } from "./tensor.ts";
import type { DeviceKind } from "./tensor.ts";

/** "auto": a GPU that can be used, else the CPU (ESFT_DEVICE decides where it is set); "cuda:N": GPU number N. */
export type DeviceChoice = "auto" | DeviceKind;

const PATTERN = /^(auto|cpu|ref|cuda(:\d{1,3})?)$/;

export interface OpenedDevice {
  readonly device: Device;
  /** Why "auto" computes on the CPU; null when the device was named, or a GPU was found. */
  readonly reason: string | null;
}

/**
 * `precision` "f32" is computed on the CPU only, so that "auto" takes it.
 * @throws ConfigError no such device · KernelError it cannot be used: what is missing, and the fix
 */
export function openDevice(
  where: DeviceChoice = "auto",
  options: { readonly threads?: number | undefined; readonly precision?: Precision | undefined } = {},
): OpenedDevice {
  const { threads, precision } = optionsArgument(options, "openDevice: options");
  expectDevice("device", where);
  const named = where === "auto" ? fromEnvironment() : where;
  const open = (kind: DeviceKind): Device => {
    const device = new Device({ kind, ...(threads === undefined ? {} : { threads }) });
    const { backend, instructionSet, threads: used } = device.info;
    debug(
      "device",
      () => `asked for ${where}${named === where ? "" : ` (ESFT_DEVICE: ${named})`}, opened ${backend}, ${instructionSet}, ${used} threads`,
    );
    return device;
  };
  if (named === "auto" && precision === "f32") return { device: open("cpu"), reason: 'precision "f32"' };
  try {
    return { device: open(named === "auto" ? "cuda" : named), reason: null };
  } catch (error) {
    if (!(error instanceof KernelError) || !(named === "auto" || named.startsWith("cuda"))) throw error;
    const missing = cause(error);
    debug("device", () => `cuda cannot be used: ${missing}`);
    if (named === "auto") return { device: open("cpu"), reason: missing.split(/;| \(/, 1)[0]! };
    const place = { ...error.where, key: "device" };
    throw new KernelError(`device "${named}": ${missing}; use device "cpu", or "auto"`, { where: place, cause: error });
  }
}

function fromEnvironment(): DeviceChoice {
  const text = process.env["ESFT_DEVICE"] ?? "";
  if (text === "") return "auto";
  expectDevice("ESFT_DEVICE", text);
  return text as DeviceChoice;
}

function expectDevice(key: string, value: unknown): void {
  if (typeof value !== "string" || !PATTERN.test(value))
    throw new ConfigError(`${key} must be "auto", "cpu", "cuda" or "cuda:N", found ${shown(value)}`, { where: { key } });
}

/** What is missing, without saying again who was asked. */
const cause = (error: KernelError): string => error.message.replace(/^(open: )?((device "cuda"|CUDA): )?/, "");

export interface CudaReport {
  /** The CUDA library was found and opened. */
  readonly loaded: boolean;
  readonly library: string;
  readonly devices: readonly CudaDevice[];
  /** Why there are no devices; null when there are. */
  readonly reason: string | null;
}
/** `instructionSet`: "sm_90a", "sm_80" …, the kernels that are used. */
type CudaDevice = { readonly index: number } & Pick<Device["info"], "name" | "instructionSet" | "memoryBytes" | "memoryFree" | "emulated">;

/** What there is of CUDA on this machine; opens every GPU once. Never throws for what is missing. */
export function describeCuda(library: string): CudaReport {
  const devices: CudaDevice[] = [];
  for (;;) {
    try {
      using device = new Device({ kind: `cuda:${devices.length}` });
      const { name, instructionSet, memoryBytes, memoryFree, emulated } = device.info;
      devices.push({ index: devices.length, name, instructionSet, memoryBytes, memoryFree, emulated });
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
      const reason = cause(error);
      return { loaded: error.where["argument"] !== "library", library, devices, reason: devices.length > 0 ? null : reason };
    }
  }
}
