// Which device to compute on. "cuda" is asked for and must be there; "auto" takes it when it is there and says why not.

import { ConfigError, KernelError } from "./errors.ts";
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

export interface OpenOptions {
  readonly threads?: number | undefined;
  /** "f32" is computed on the CPU only, so that "auto" takes it. */
  readonly precision?: Precision | undefined;
}

/** @throws ConfigError no such device · KernelError it cannot be used: what is missing, and the fix */
export function openDevice(where: DeviceChoice = "auto", options: OpenOptions = {}): OpenedDevice {
  expectDevice("device", where);
  const threads = options.threads === undefined ? {} : { threads: options.threads };
  const named = where === "auto" ? fromEnvironment() : where;
  if (named === "auto") {
    if (options.precision === "f32") return { device: new Device(threads), reason: 'precision "f32"' };
    const missing = whyNoCuda(() => new Device({ kind: "cuda", ...threads }));
    return missing instanceof Device ? { device: missing, reason: null } : { device: new Device(threads), reason: missing };
  }
  if (!named.startsWith("cuda")) return { device: new Device({ kind: named, ...threads }), reason: null };
  try {
    return { device: new Device({ kind: named, ...threads }), reason: null };
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    throw new KernelError(`device "${named}": ${cause(error)}; use device "cpu", or "auto"`, {
      where: { ...error.where, key: "device" },
      cause: error,
    });
  }
}

function fromEnvironment(): DeviceChoice {
  const text = process.env["ESFT_DEVICE"] ?? "";
  if (text === "") return "auto";
  expectDevice("ESFT_DEVICE", text);
  return text as DeviceChoice;
}

function expectDevice(key: string, value: string): void {
  if (!PATTERN.test(value))
    throw new ConfigError(`${key} must be "auto", "cpu", "cuda" or "cuda:N", found ${JSON.stringify(value)}`, { where: { key } });
}

/** What is missing, without saying again who was asked. */
const cause = (error: KernelError): string => error.message.replace(/^(open: )?((device "cuda"|CUDA): )?/, "");

/** The device, or one short line. */
function whyNoCuda(open: () => Device): Device | string {
  try {
    return open();
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
    return cause(error).split(/;| \(/, 1)[0]!;
  }
}

export interface CudaReport {
  /** The CUDA library was found and opened. */
  readonly loaded: boolean;
  readonly library: string;
  readonly devices: readonly CudaDevice[];
  /** Why there are no devices; null when there are. */
  readonly reason: string | null;
}
export interface CudaDevice {
  readonly index: number;
  readonly name: string;
  /** "sm_90a", "sm_80": the kernels that are used. */
  readonly instructionSet: string;
  readonly memoryBytes: number;
  readonly memoryFree: number;
  readonly emulated: boolean;
}

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
