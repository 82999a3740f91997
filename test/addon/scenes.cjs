// What hostile or unlucky JavaScript can do to the addon: node scenes.cjs NAME. A scene prints what it saw; none may end the process.
"use strict";
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { native, opIndex, run, f32 } = require("../package/programs/addon.cjs");

const i64 = 3;
const say = (...parts) => console.log(parts.join(" "));
const attempt = (f) => {
  try {
    f();
    return "done";
  } catch (error) {
    return error instanceof RangeError || error instanceof TypeError || error.status === undefined
      ? `${error.name}`
      : `status ${error.status}`;
  }
};
const open = () => new native.Device("cpu", 2);
/** An array whose first element runs `f` when it is read. */
const trap = (items, f) => Object.defineProperty([...items], 0, { get: () => (f(), items[0]) });
const fill = (device, x, value = 1) => device.run(opIndex("fill"), x, value);
function temporary(bytes) {
  const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), "esft-addon-")), "data.bin");
  fs.writeFileSync(file, Buffer.alloc(bytes, 1));
  process.on("exit", () => fs.rmSync(path.dirname(file), { recursive: true, force: true }));
  return file;
}
const sparse = (file, bytes) => fs.truncateSync(file, bytes);

/** Ops recorded, abandoned, launched at the wrong time. */
function recordings(device) {
  const x = device.alloc(f32, [4, 1]);
  const graph = device.captureBegin();
  say(
    attempt(() => device.captureBegin()),
    attempt(() => graph.launch()),
    attempt(() => fill(device, x, 2)),
    attempt(() => device.alloc(f32, [4])),
  );
  const keep = trap([0], () => graph.end().catch(() => {})); // ends while an op's arguments are collected
  run(device, "mask_grad", { grad: x, keep });
  say(
    attempt(() => graph.end()),
    attempt(() => graph.launch()),
    attempt(() => Object.getPrototypeOf(graph).launch.call(x)),
    attempt(() => new graph.constructor().launch()),
  );
  const abandoned = device.captureBegin();
  abandoned.dispose();
  say(
    attempt(() => abandoned.end()),
    attempt(() => device.captureBegin()),
  );
  device.dispose(); // in the middle of a recording
  say(
    attempt(() => graph.launch()),
    attempt(() => graph.dispose()),
    attempt(() => graph.launch()),
  );
}

const scenes = {
  /** Handles made through a handle's constructor, subclasses, borrowed prototypes and foreign receivers. */
  identity() {
    const device = open();
    const tensor = device.alloc(f32, [4]);
    const Raw = tensor.constructor;
    const raw = new Raw(1, 2, 3);
    class Sub extends Raw {}
    for (const t of [raw, new Sub(), Reflect.construct(Raw, [], Object)]) {
      say(
        attempt(() => Raw.prototype.read.call(t)),
        attempt(() => Raw.prototype.write.call(t, new Float32Array(4))),
      );
      say(
        attempt(() => fill(device, t)),
        attempt(() => new native.TensorList([t])),
        attempt(() => Raw.prototype.dispose.call(t)),
      );
    }
    const foreign = [{}, device, new native.TensorList([tensor]), Object.create(tensor), new Proxy(tensor, {}), null, 7, Raw.prototype];
    for (const t of foreign) {
      say(
        attempt(() => Raw.prototype.read.call(t)),
        attempt(() => Raw.prototype.view.call(t, 0, 0, [1])),
        attempt(() => Raw.prototype.isDisposed.call(t)),
      );
      say(
        attempt(() => fill(device, t)),
        attempt(() => new native.TensorList([t])),
      );
    }
    say(
      attempt(() => Raw()),
      attempt(() => native.Device("cpu", 1)),
      attempt(() => new native.Device()),
    );
    for (const stranger of [process.stdout._handle, new (require("node:vm").Script)("1"), new WebAssembly.Memory({ initial: 1 })])
      say(attempt(() => fill(device, stranger))); // what Node has wrapped
    const { run } = device;
    say(
      attempt(() => run(opIndex("fill"), tensor, 1)),
      attempt(() => run.call(tensor, opIndex("fill"), tensor, 1)),
      attempt(() => run.call(Object.create(device), opIndex("fill"), tensor, 1)),
      attempt(() => run.call(new Proxy(device, {}), opIndex("fill"), tensor, 1)),
      attempt(() => run.call(device, opIndex("fill"), tensor, 1)),
    );
  },

  /** Copies from mappings and recordings, asked for wrongly. The recordings need the CUDA library of argv[3]. */
  graphs() {
    const cpu = open();
    const tensor = cpu.alloc(f32, [4]);
    const file = new native.MappedFile(temporary(256));
    say(
      attempt(() => cpu.captureBegin().dispose()),
      attempt(() => tensor.copyFromMap({}, 0)),
      attempt(() => tensor.copyFromMap(file, 241)),
      attempt(() => tensor.copyFromMap(file, -1)),
      attempt(() => tensor.copyFromMap(file, 241.5)),
      attempt(() => tensor.copyFromMap(file, 3)),
      attempt(() => new native.Device("cuda", 1, -1)),
      attempt(() => new native.Device("cuda", 1, "0")),
    );
    file.dispose();
    say(attempt(() => tensor.copyFromMap(file, 0)));
    cpu.dispose();
    say(
      attempt(() => cpu.memoryFree()),
      attempt(() => cpu.captureBegin()),
    );
    recordings(open());
    if (!process.argv[3]) return;
    process.env.ESFT_CUDA_LIBRARY = process.argv[3];
    recordings(new native.Device("cuda", 1));
  },

  /** User code that runs while arguments are collected takes away what was checked already. */
  reentrancy() {
    for (const victim of ["device", "tensor", "file"]) {
      const device = open();
      const tensor = device.alloc(f32, [64]);
      const file = new native.MappedFile(temporary(256));
      const mapped = device.fromMap(file, 0, f32, [64]);
      const strike = () => ({ device, tensor, file })[victim].dispose();
      say(
        victim,
        attempt(() => device.alloc(f32, trap([8], victim === "device" ? strike : () => {}))),
      );
      say(
        victim,
        attempt(() => device.fromMap(file, 0, f32, trap([8], strike))),
      );
      say(
        victim,
        attempt(() => tensor.view(0, f32, trap([8], strike)).view(0, f32, [1])),
      );
      const again = victim === "device" ? open() : device;
      const x = again.alloc(f32, [64, 1]);
      say(
        victim,
        attempt(() =>
          run(again, "mask_grad", {
            grad: x,
            keep: trap([0], () => {
              again.dispose();
              x.dispose();
            }),
          }),
        ),
      );
      say(
        victim,
        attempt(() => fill(again, again.alloc(f32, [1]))),
      );
      mapped.dispose();
    }
    const device = open();
    // Everything that was read before an array's getter runs is held, whatever the getter does.
    const rows = device.alloc(f32, [4, 4]);
    const mask = (f) => attempt(() => run(device, "mask_grad", { grad: rows, keep: trap([0, 1], f) }));
    say(
      mask(() => rows.view(0, f32, [4, 4])),
      mask(() => mask(() => fill(device, rows))),
      mask(() => {
        throw new RangeError("on purpose");
      }),
      mask(() => rows.dispose()),
      mask(() => {}),
    );
    const tensors = Object.fromEntries(["dy", "dx"].map((name) => [name, device.alloc(f32, [0, 4])]));
    const offsets = device.alloc(2, [3]);
    const w = new native.TensorList([device.alloc(f32, [4, 4]), device.alloc(f32, [4, 4])]);
    const strike = () => {
      for (const t of [...Object.values(tensors), offsets, w]) t.dispose();
      if (global.gc) global.gc();
    };
    const groups = trap([0, 1], strike);
    const plain = { term_groups: [], segments: 1, act: 0, alpha: 0, limit: 0, factor: 1, accumulate: 0, precision: 0 };
    say(attempt(() => run(device, "grouped_gemm_nn", { ...tensors, w, offsets, groups, ...plain })));
    const keep = device.alloc(f32, [8, 8]);
    const ints = {
      grad: keep,
      keep: Object.defineProperty([0, 1, 2, 3], 1, {
        get() {
          this.length = 1;
          keep.dispose();
          return 1;
        },
      }),
    };
    say(attempt(() => run(device, "mask_grad", ints)));
    const list = [device.alloc(f32, [4]), device.alloc(f32, [4])];
    say(
      attempt(
        () =>
          new native.TensorList(
            Object.defineProperty(list, 0, {
              get() {
                list[1].dispose();
                list.length = 1;
                return undefined;
              },
            }),
          ),
      ),
    );
    return device.synchronize().then(
      () => say("synchronized"),
      (error) => say(`status ${error.status}`),
    );
  },

  /** Tensors, views and lists that outlive their device; work that is pending when it goes. */
  async lifetime() {
    const device = open();
    const tensor = device.alloc(f32, [1024]);
    const view = tensor.view(16, f32, [8]).view(4, f32, [2]);
    const list = new native.TensorList([view, tensor]);
    const pending = [tensor.read(), device.synchronize(), view.read()];
    tensor.dispose();
    device.dispose();
    device.dispose();
    say((await Promise.allSettled(pending)).every((p) => p.status === "fulfilled" || p.reason.status === 100));
    say(
      attempt(() => device.alloc(f32, [1])),
      attempt(() => device.synchronize()),
      attempt(() => device.info()),
      attempt(() => fill(device, view)),
    );
    say(
      await view.read().then(
        () => "read",
        (error) => `status ${error.status}`,
      ),
      attempt(() => view.write(new Float32Array(2))),
    );
    say(
      attempt(() => view.view(0, f32, [1])),
      view.isDisposed(),
      tensor.isDisposed(),
    );
    say(
      attempt(() => fill(open(), view)),
      attempt(() => list.dispose()),
      attempt(() => list.dispose()),
    );
    const other = open();
    const held = new native.TensorList([other.alloc(f32, [4])]); // the list is all that is left
    const norm = other.alloc(4, [1]);
    if (global.gc) for (let i = 0; i < 3; i++) global.gc();
    run(other, "grad_norm", { grads: held, norm });
    held.dispose();
    say(new Float64Array(await norm.read())[0]);
  },

  /** Wraps collected while their jobs wait in the queue. */
  async collection() {
    const device = open();
    for (let i = 0; i < 200; i++) {
      const t = device.alloc(f32, [256, 256]);
      t.write(new Float32Array(65536).fill(i));
      fill(device, t.view(0, f32, [128, 256]));
      new native.TensorList([t, t.view(4, f32, [3])]);
      if (i % 20 === 0) global.gc();
      if (i % 50 === 0) void t.read();
    }
    await device.synchronize();
    global.gc();
    let orphan = open();
    const promise = orphan.alloc(f32, [1 << 20]).read();
    orphan = null;
    global.gc();
    say((await promise).byteLength);
    // Many come and go, in any order; who stays is known.
    const one = open();
    const base = one.alloc(f32, [64]);
    let kept = [];
    for (let round = 0; round < 5; round++) {
      for (let i = 0; i < 4000; i++) kept.push(base.view(4 * (i % 64), f32, [1]));
      if (round < 4) kept = kept.filter((_, i) => (i * 7919 + round) % 3 === 0);
      global.gc();
      await new Promise((resolve) => setImmediate(resolve)); // finalizers
      for (const t of kept) fill(one, t, round);
      await one.synchronize();
    }
    const known = kept.filter((t) => !t.isDisposed() && attempt(() => new native.TensorList([t])) === "done");
    say(`${known.length} of ${kept.length} known`);
  },

  /** Shapes and numbers that are none. */
  numbers() {
    const device = open();
    const t = device.alloc(f32, [4, 4]);
    const bad = [NaN, Infinity, -Infinity, -1, 0.5, 2 ** 53, "4", 4n, {}, null, undefined, [4], Symbol("x"), () => 4, new Number(4)];
    say(
      new Set(
        bad.flatMap((x) => [
          attempt(() => device.alloc(f32, [x])),
          attempt(() => device.alloc(x, [1])),
          attempt(() => t.view(x, f32, [1])),
          attempt(() => device.run(x)),
        ]),
      ).size,
    );
    say(
      attempt(() => device.alloc(f32, [-0])),
      attempt(() => t.view(-0, f32, [1])),
      attempt(() => device.alloc(f32, [])),
      attempt(() => device.alloc(f32, [1, 1, 1, 1, 1])),
    );
    for (const shape of [[2 ** 40], [2 ** 46], [2 ** 47], [2 ** 52], [2 ** 30, 2 ** 30], [0, 2 ** 50], [2 ** 26, 2 ** 26, 0]])
      say(
        shape.join("x"),
        attempt(() => device.alloc(i64, shape)),
      );
    for (const shape of [new Array(2 ** 31), Array(1), new Float64Array([1]), { length: 1, 0: 1 }, "4", new Proxy([1], {})])
      say(attempt(() => device.alloc(f32, shape)));
    for (const ld of [0, 3, -4, 2 ** 52, 2 ** 46, NaN, "4"])
      say(
        "ld",
        attempt(() => t.view(0, f32, [4, 4], ld)),
        attempt(() => t.view(0, f32, [1, 4], ld)),
        attempt(() => t.view(0, f32, [4, 0], ld)),
      );
    say(
      attempt(() => t.view(64, f32, [0])),
      attempt(() => t.view(64, f32, [1])),
      attempt(() => t.view(2, f32, [1])),
      attempt(() => t.view(4, i64, [1])),
      attempt(() => t.view(8, i64, [7])),
    );
    say(
      attempt(() => t.view(4, f32, [3, 3], 4).view(0, f32, [15])),
      attempt(() => t.view(4, f32, [3, 3], 4).view(0, f32, [11])),
    );
    say(
      attempt(() => new native.TensorList(new Array(100_000).fill(t)).dispose()),
      attempt(() => new native.TensorList(new Array(5))),
      attempt(() => new native.TensorList({ length: 1 })),
    );
    say(
      attempt(() => run(device, "mask_grad", { grad: t, keep: new Array(2 ** 25).fill(0) })),
      attempt(() => run(device, "mask_grad", { grad: t, keep: new Int32Array(2 ** 25) })),
      attempt(() => run(device, "mask_grad", { grad: t, keep: [2 ** 31] })),
    );
    say(
      attempt(() => device.run(opIndex("fill"), t, NaN)),
      attempt(() => device.run(opIndex("fill"), t)),
      attempt(() => device.run(opIndex("fill"))),
      attempt(() => device.run(opIndex("fill"), t, 1, 1)),
      attempt(() => device.run(opIndex("fill"), ...new Array(10_000).fill(t))),
      attempt(() => device.run(opIndex("fill"), { x: t, value: 1 })),
      attempt(() => device.run()),
    );
  },

  /** Tensors without elements go through everything. */
  async empty() {
    const device = open();
    for (const shape of [[0], [0, 4], [4, 0], [0, 0]]) {
      const t = device.alloc(f32, shape);
      t.write(new Float32Array(0));
      fill(device, t);
      say((await t.read()).byteLength, (await t.view(0, f32, [0]).read()).byteLength);
    }
    const file = temporary(0);
    const mapped = device.fromMap(new native.MappedFile(file), 0, f32, [0]);
    say((await mapped.read()).byteLength, (await device.alloc(f32, []).read()).byteLength);
  },

  /** Arrays of every kind given to write(). */
  async arrays() {
    const device = open();
    const t = device.alloc(f32, [4]);
    const shared = new Float32Array(new SharedArrayBuffer(32), 8, 4).fill(3);
    say(
      attempt(() => t.write(shared)),
      new Float32Array(await t.read()).join(),
    );
    const resizable = new ArrayBuffer(16, { maxByteLength: 64 });
    const tracking = new Float32Array(resizable);
    const fixed = new Float32Array(resizable, 8, 2);
    say(
      attempt(() => t.write(tracking.fill(2))),
      new Float32Array(await t.read()).join(),
    );
    resizable.resize(8);
    say(
      attempt(() => t.write(tracking)),
      attempt(() => t.write(fixed)),
      attempt(() => device.alloc(f32, [2]).write(fixed)),
      attempt(() => device.alloc(f32, [0]).write(fixed)),
    );
    const growing = new SharedArrayBuffer(16, { maxByteLength: 64 });
    const watched = new Float32Array(growing);
    growing.grow(32);
    say(
      attempt(() => t.write(watched)),
      attempt(() => t.write(new Float32Array(growing, 0, 4).fill(5))),
      new Float32Array(await t.read()).join(),
    );
    const gone = new Float32Array(4);
    structuredClone(gone.buffer, { transfer: [gone.buffer] });
    say(
      attempt(() => t.write(gone)),
      attempt(() => t.write(new DataView(new ArrayBuffer(16)))),
      attempt(() => t.write(new ArrayBuffer(16))),
      attempt(() => t.write("four")),
      attempt(() => t.write()),
    );
    const lying = Object.defineProperties(new Float32Array(4), {
      length: { value: 1e9 },
      byteLength: { value: 16 },
      buffer: { value: new ArrayBuffer(1) },
    });
    say(
      attempt(() => t.write(lying)),
      attempt(() => t.write(Buffer.alloc(16, 0))),
      attempt(() => t.write(new BigInt64Array(2))),
      attempt(() => t.write(new Uint8ClampedArray(16))),
    );
  },

  /** Mapped files: views, writes refused, other lengths than the header said, a file that shrinks under the mapping. */
  async files() {
    const device = open();
    const file = temporary(4 << 20);
    const map = new native.MappedFile(file);
    const whole = device.fromMap(map, 0, f32, [1 << 20]);
    const tail = whole.view(4 << 19, f32, [1 << 19]).view(0, f32, [64]);
    say(
      attempt(() => whole.write(new Float32Array(1 << 20))),
      attempt(() => fill(device, tail)),
      attempt(() => device.fromMap(map, 4, f32, [1 << 20])),
      attempt(() => device.fromMap(map, 2, f32, [1])),
      attempt(() => device.fromMap(map, -4, f32, [1])),
    );
    map.dispose();
    whole.dispose();
    say(
      attempt(() => device.fromMap(map, 0, f32, [1])),
      (await tail.read()).byteLength,
    );
    const list = new native.TensorList([tail]);
    const norm = device.alloc(4, [1]);
    sparse(file, 4096);
    say(
      await tail.read().then(
        () => "read",
        (error) => `status ${error.status}: ${/changed|shrank|shorter/.test(error.message)}`,
      ),
    );
    const y = device.alloc(f32, [64]);
    run(device, "add", { a: tail, b: tail, y, alpha: 1 });
    say(
      await y.read().then(
        () => "read",
        (error) => `status ${error.status}`,
      ),
    );
    run(device, "grad_norm", { grads: list, norm });
    say(
      await norm.read().then(
        () => "read",
        (error) => `status ${error.status}`,
      ),
    );
    fill(device, y);
    say(new Float32Array(await y.read())[0]);
    for (const name of ["", "/nowhere/x", os.tmpdir(), `${file}\0.bin`, "/dev/null", 7, undefined])
      say(attempt(() => new native.MappedFile(name)));
    const pipe = path.join(path.dirname(file), "pipe");
    require("node:child_process").execFileSync("mkfifo", [pipe]);
    say(attempt(() => new native.MappedFile(pipe)));
  },

  /** More bytes than an ArrayBuffer can have here. */
  async huge() {
    const device = open();
    const file = temporary(0);
    sparse(file, 2 ** 43);
    const t = device.fromMap(new native.MappedFile(file), 0, f32, [2 ** 41]);
    say(attempt(() => t.read()));
    say(await device.synchronize().then(() => "synchronized"));
  },

  /** More threads than the process may start (run with an address space limit). */
  threads() {
    say(
      attempt(() => new native.Device("cpu", 1024)),
      attempt(() => new native.Device("cpu", 1025)),
    );
    const device = new native.Device("cpu", 2);
    return device
      .alloc(f32, [2])
      .read()
      .then((b) => say(b.byteLength));
  },
};

Promise.resolve(scenes[process.argv[2]]()).then(
  () => say("end"),
  (error) => {
    console.error(error);
    process.exitCode = 1;
  },
);
