// Adapters that stay on the device beside the base, to be switched between passes: an ESFT patch is other tensors in place of those that
// it replaces (no copy of the base), what is low-rank stands unmerged beside it. Switching moves pointers; back again, the base's own
// tensors are in their places.

import { textArgument } from "../arguments.ts";
import { ConfigError, LayoutError } from "../errors.ts";
import type { Attachments } from "../model/layers/attachment.ts";
import type { Transformer } from "../model/transformer.ts";
import type { Tensor } from "../tensor.ts";
import type { Adapter } from "./adapter.ts";
import { mixable, Mix } from "./mix.ts";

/** An adapter's values on the device. */
export interface LoadedAdapter {
  readonly adapter: Adapter;
  readonly values: ReadonlyMap<string, Tensor>;
  /** Null: it replaces tensors and attaches nothing. */
  readonly attachments: Attachments | null;
}

interface Resident {
  /** One, or those of a union. */
  readonly parts: readonly LoadedAdapter[];
  readonly values: ReadonlyMap<string, Tensor>;
  readonly attachments: Attachments | null;
  readonly own: boolean;
  /** The adapters that it shares passes with; null: it computes alone. */
  readonly mix: Mix | null;
  uses: number;
}

/** What computes together in one pass: an adapter, several that may be mixed, or the base (null). */
export type AdapterGroup = Resident | Mix | null;

export interface ResidentInfo {
  readonly name: string;
  /** Of its tensors on the device. */
  readonly bytes: number;
  readonly tensors: number;
  /** The names that it is a union of; empty: it is one adapter. */
  readonly union: readonly string[];
}

export class ResidentAdapters {
  private readonly transformer: Transformer;
  private readonly load: (source: Adapter | string) => Promise<LoadedAdapter>;
  private readonly byName = new Map<string, Resident>();
  private readonly unions = new Map<string, readonly string[]>();
  private active: AdapterGroup = null;
  /** The mixtures that new adapters join, unless they are in use, by what is kept of a sequence with them: the same for all of one. */
  private readonly mixes = new Map<string, Mix>();
  private disposed = false;

  /** @param load reads an adapter for this model and puts its tensors on the device */
  constructor(transformer: Transformer, load: (source: Adapter | string) => Promise<LoadedAdapter>) {
    this.transformer = transformer;
    this.load = load;
  }

  get names(): readonly string[] {
    return [...this.byName.keys()];
  }
  list(): readonly ResidentInfo[] {
    return [...this.byName].map(([name, { values }]) => ({
      name,
      bytes: [...values.values()].reduce((n, t) => n + t.bytes, 0),
      tensors: values.size,
      union: this.unions.get(name) ?? [],
    }));
  }
  has(name: string): boolean {
    return this.byName.has(name);
  }
  /** What stands behind a name: one adapter, or those of a union. @throws ConfigError unknown */
  adaptersOf(name: string): readonly Adapter[] {
    return this.named(name).parts.map(({ adapter }) => adapter);
  }

  /**
   * Puts an adapter on the device under a name. It changes nothing before it is asked for.
   * @throws ConfigError the name is taken or no name · LayoutError another base, damaged files · MemoryError
   */
  async add(name: string, source: Adapter | string): Promise<Adapter> {
    this.requireNew(name);
    const loaded = await this.load(source);
    try {
      this.requireNew(name); // reading took its time
    } catch (error) {
      for (const t of loaded.values.values()) t.dispose();
      throw error;
    }
    const { values, attachments } = loaded;
    const mix = mixable(loaded) ? this.openMix(attachments) : null;
    const resident = { parts: [loaded], values, attachments, own: true, mix, uses: 0 };
    this.byName.set(name, resident);
    mix?.members.set(name, resident);
    return loaded.adapter;
  }

  private openMix(attachments: Attachments | null): Mix {
    const kept = JSON.stringify(this.transformer.statesWith(attachments));
    const open = this.mixes.get(kept);
    if (open && !open.inUse && this.active !== open) return open;
    const mix = new Mix();
    this.mixes.set(kept, mix);
    return mix;
  }

  /** Names of tensors that both would replace, each with the values of its own. */
  conflicts(a: string, b: string): readonly string[] {
    const [x, y] = [this.named(a), this.named(b)];
    return [...x.values.keys()].filter((key) => y.values.has(key));
  }

  /**
   * Several patches at once, under a name of their own: adapters that replace whole tensors, none of them twice.
   * @throws ConfigError one of them attaches something · LayoutError two replace the same tensor, naming both and the tensors
   */
  union(name: string, of: readonly string[]): void {
    this.requireNew(name);
    if (of.length < 2) throw new ConfigError(`a union must be of at least two adapters, found ${of.length}`, { where: { key: "union" } });
    const values = new Map<string, Tensor>();
    const owner = new Map<string, string>();
    const parts: LoadedAdapter[] = [];
    for (const part of of) {
      const resident = this.named(part);
      if (resident.attachments)
        throw new ConfigError(
          `adapter "${part}" attaches ${resident.parts[0]!.adapter.method.type} terms; a union is of patches that replace whole tensors`,
          {
            where: { key: part },
          },
        );
      const taken = [...resident.values.keys()].filter((key) => owner.has(key));
      if (taken.length > 0)
        throw new LayoutError(
          `adapters "${owner.get(taken[0]!)}" and "${part}" both replace ${taken.length} tensors, the first is "${taken[0]}"; ` +
            `only patches on different experts go together`,
          { where: { tensor: taken[0], adapters: [owner.get(taken[0]!), part].join() } },
        );
      for (const [key, tensor] of resident.values) {
        values.set(key, tensor);
        owner.set(key, part);
      }
      parts.push(...resident.parts);
    }
    this.byName.set(name, { parts, values, attachments: null, own: false, mix: null, uses: 0 });
    this.unions.set(name, [...of]);
  }

  /** Takes an adapter off the device. @throws ConfigError unknown, in use, or part of a union */
  remove(name: string): void {
    const resident = this.named(name);
    const { mix } = resident;
    if (resident.uses > 0 || this.active === resident)
      throw new ConfigError(`adapter "${name}" is in use by ${resident.uses} answers; wait for their end`, { where: { key: name } });
    if (mix && (mix.inUse || this.active === mix))
      throw new ConfigError(
        `adapter "${name}" shares passes with adapters that answer now (${[...mix.members.keys()].join(", ")}); wait for their end`,
        {
          where: { key: name },
        },
      );
    const union = [...this.unions].find(([, of]) => of.includes(name));
    if (union) throw new ConfigError(`adapter "${name}" is part of the union "${union[0]}": remove that first`, { where: { key: name } });
    this.byName.delete(name);
    mix?.members.delete(name);
    this.unions.delete(name);
    if (resident.own) for (const t of resident.values.values()) t.dispose();
  }

  /** Somebody is going to use it, and no more. */
  hold(name: string): void {
    const resident = this.named(name);
    this.requireBase(name);
    resident.uses++;
  }
  release(name: string): void {
    const resident = this.byName.get(name);
    if (resident) resident.uses--;
  }

  /** Adapters of one group may answer in one pass. */
  groupOf(name: string | null): AdapterGroup {
    if (name === null) return null;
    const resident = this.named(name);
    return resident.mix ?? resident;
  }

  /** The model computes with this group from the next pass on; null: the base. For whoever has the model to himself. */
  switchTo(group: AdapterGroup): void {
    if (group === this.active || this.disposed) return;
    if (group === null) this.transformer.restore();
    else {
      this.requireBase([...this.byName].find(([, r]) => r === group || r.mix === group)?.[0] ?? "");
      this.transformer.override(group.values, group.attachments, true);
    }
    this.active = group;
  }

  private requireBase(name: string): void {
    if (this.active === null && this.transformer.params.overridden)
      throw new ConfigError(`adapter "${name}" cannot be used while another is applied to the model: removeAdapter() first`, {
        where: { key: "adapter" },
      });
  }
  private named(name: string): Resident {
    const resident = this.byName.get(name);
    if (resident) return resident;
    const known = this.names.length > 0 ? `resident are ${this.names.join(", ")}` : "none is resident";
    throw new ConfigError(`no adapter "${name}": ${known}; add one with model.adapters.add(name, dir)`, { where: { key: "adapter" } });
  }
  private requireNew(name: string): void {
    if (textArgument(name, "name") === "" || name === "base")
      throw new ConfigError(`an adapter's name must be a text other than "base", found ${JSON.stringify(name)}`, {
        where: { key: "name" },
      });
    if (this.byName.has(name)) throw new ConfigError(`an adapter "${name}" is resident already`, { where: { key: name } });
  }

  dispose(): void {
    this.disposed = true;
    for (const { own, values } of this.byName.values()) if (own) for (const t of values.values()) t.dispose();
    this.byName.clear();
    this.unions.clear();
  }
}
