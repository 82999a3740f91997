// attention_cached — new tokens over what their sequences have kept (contract: ops/attention_cached.h). Bound by reading the caches.
//
// A row (a token and a kv-head with its query heads) walks over stretches of kStretch positions. For each: scores of all its keys, their
// maximum, probabilities, O = P·V; stretches are then joined in ascending order. Where rows are few, a stretch is a task by itself, else
// a row is: the same stretches, joined the same way, so no bit depends on threads or on what stands beside a row.
#include "../../ops/checks.h"
#include "../kernels.h"
#include "attention_shape.h"

namespace esft::cpu::ESFT_ISA {
namespace attn {
namespace {

constexpr int64_t kStretch = 512;
constexpr int kHeads = 4;  // query heads of a step: a key is loaded once for them

struct F32Cache {
  typedef float T;
  ESFT_INLINE vf load(const float* p) { return ESFT_ISA::load(p); }
  ESFT_INLINE vf load_part(const float* p, int64_t n) { return ESFT_ISA::load_part(p, n); }
  ESFT_INLINE void put(float* p, vf x, int64_t n) { store_n(p, x, n); }
};
struct BF16Cache {
  typedef uint16_t T;
  ESFT_INLINE vf load(const uint16_t* p) { return load_bf16(p); }
  ESFT_INLINE vf load_part(const uint16_t* p, int64_t n) { return load_bf16_part(p, n); }
  ESFT_INLINE void put(uint16_t* p, vf x, int64_t n) { n == W ? store_bf16(p, x) : store_bf16_part(p, x, n); }
};

// What a stretch leaves: per query head its maximum (a power of two), sum and weighted values.
struct Partial {
  float *m, *l, *o;  // [group], [group], [group][dvp]
};

template <class C>
struct Cached {
  typedef typename C::T T;
  Shape g;
  const esft_attention_cached_args* a;
  Matrix q, k, v, ks, out;
  Sinks sinks;
  bool bf16, separate_values;
  int64_t key_width, value_width, wide_k, wide_r;  // wide: padded to vectors
  const int32_t *document, *positions;

  const T* keys(int64_t t) const { return static_cast<const T*>(a->k_cache.items[document[t]].data); }
  const T* values(int64_t t) const { return separate_values ? static_cast<const T*>(a->v_cache.items[document[t]].data) : keys(t); }
  int64_t room(int64_t t) const { return rows(a->k_cache.items[document[t]]); }
  int64_t first(int64_t t) const { return first_cached(positions[t], g.window, a->chunk); }
  int64_t stretches(int64_t t) const { return positions[t] / kStretch - first(t) / kStretch + 1; }
  int64_t query_size() const { return g.group * (wide_k + wide_r); }
  Partial partial_at(float* base) const { return {base, base + round_up(g.group, W), base + 2 * round_up(g.group, W)}; }
  int64_t partial_size() const { return 2 * round_up(g.group, W) + g.group * g.dvp; }

  void put_part(T* dst, const float* src, int64_t n) const {
    for (int64_t c = 0; c < n; c += W) {
      const int64_t m = min_of(W, n - c);
      const vf x = load_n(src + c, m);
      C::put(dst + c, bf16 ? rounded_to_bf16(x) : x, m);
    }
  }
  void store_row(int64_t t) const {
    const int64_t row = positions[t] % room(t);
    T* key = const_cast<T*>(keys(t)) + row * key_width;
    for (int64_t h = 0; h < g.G; h++) put_part(key + h * g.k_dim, k.at(t, g.k_offset + h * g.k_stride), g.k_dim);
    if (g.dr) put_part(key + g.G * g.k_dim, ks.at(t, 0), g.dr);
    if (!separate_values) return;
    T* value = const_cast<T*>(values(t)) + row * value_width;
    for (int64_t h = 0; h < g.G; h++) put_part(value + h * g.dv, v.at(t, g.v_offset + h * g.v_stride), g.dv);
  }

  // The queries of a row's heads: [group][wide_k + wide_r], padded with zeros.
  void queries(int64_t t, int64_t kv, float* dst) const {
    for (int64_t h = 0; h < g.group; h++) {
      const float* src = q.at(t, (kv * g.group + h) * g.dq);
      float* d = dst + h * (wide_k + wide_r);
      const auto part = [&](float* to, const float* from, int64_t n, int64_t wide) ESFT_LAMBDA {
        for (int64_t c = 0; c < wide; c += W) {
          const vf x = load_n(from + c, min_of(W, n - c));
          store(to + c, bf16 ? rounded_to_bf16(x) : x);
        }
      };
      part(d, src, g.k_dim, wide_k);
      part(d + wide_k, src + g.k_dim, g.dr, wide_r);
    }
  }

  // f(first row of the cache, first position behind `from`, count) over runs of positions [from, to) that lie one behind the other.
  template <class F>
  ESFT_INLINE void runs(int64_t from, int64_t to, int64_t size, F f) {
    for (int64_t p = from; p < to;) {
      const int64_t row = p % size, n = min_of(to - p, size - row);
      f(row, p - from, n);
      p += n;
    }
  }

  template <int H>
  void scores(const float* query, const T* key, int64_t kv, int64_t n, float* s) const {
    const int64_t step = wide_k + wide_r, tail = g.G * g.k_dim;
    for (int64_t j = 0; j < n; j++, key += key_width) {
      vf sum[H] = {};
      const auto dot = [&](const T* x, const float* y, int64_t width) ESFT_LAMBDA {
        int64_t c = 0;
        for (; c + W <= width; c += W) {
          const vf kx = C::load(x + c);
          for (int h = 0; h < H; h++) sum[h] += kx * load(y + h * step + c);
        }
        if (c < width) {
          const vf kx = C::load_part(x + c, width - c);
          for (int h = 0; h < H; h++) sum[h] += kx * load(y + h * step + c);
        }
      };
      dot(key + kv * g.k_dim, query, g.k_dim);
      if (g.dr) dot(key + tail, query + wide_k, g.dr);
      for (int h = 0; h < H; h++) s[h * kStretch + j] = hsum(sum[h]);
    }
  }

  // o[h] (+)= Σ_j p[h][j] · value j, columns [c, c + N vectors); of the last vector `last` columns.
  template <int H, int N>
  void mix(const float* p, const T* value, int64_t n, float* o, bool add, int64_t last) const {
    vf sum[H][N];
    for (int h = 0; h < H; h++)
      for (int i = 0; i < N; i++) sum[h][i] = add ? load(o + h * g.dvp + i * W) : vf{};
    for (int64_t j = 0; j < n; j++, value += value_width) {
      vf x[N];
      for (int i = 0; i < N; i++) x[i] = i == N - 1 && last < W ? C::load_part(value + i * W, last) : C::load(value + i * W);
      for (int h = 0; h < H; h++)
        for (int i = 0; i < N; i++) sum[h][i] += splat(p[h * kStretch + j]) * x[i];
    }
    for (int h = 0; h < H; h++)
      for (int i = 0; i < N; i++) store(o + h * g.dvp + i * W, sum[h][i]);
  }
  template <int H>
  void mix_all(const float* p, const T* value, int64_t n, float* o, bool add) const {
    int64_t c = 0;
    for (; c + 4 * W <= g.dv; c += 4 * W) mix<H, 4>(p, value + c, n, o + c, add, W);
    for (; c < g.dv; c += W) mix<H, 1>(p, value + c, n, o + c, add, min_of(W, g.dv - c));
  }

  template <int H>
  void heads(int64_t t, int64_t kv, int64_t from, int64_t to, const float* query, float* s, const Partial& w) const {
    const int64_t size = room(t), n = to - from;
    runs(from, to, size,
         [&](int64_t row, int64_t at, int64_t m) ESFT_LAMBDA { scores<H>(query, keys(t) + row * key_width, kv, m, s + at); });
    const vf scale2 = splat(g.scale2);
    for (int h = 0; h < H; h++) {
      float* x = s + h * kStretch;
      vf top = splat(-__builtin_inff());
      for (int64_t j = 0; j < n; j += W) {
        const int64_t m = min_of(W, n - j);
        vf y = load_n(x + j, m) * scale2;
        store_n(x + j, y, m);
        if (m < W) y = select(lanes_in(0, 0, m), y, splat(-__builtin_inff()));
        top = vmax(top, y);
      }
      const vf most = splat(w.m[h] = hmax(top));
      vf sum = {};
      for (int64_t j = 0; j < n; j += W) {
        const int64_t m = min_of(W, n - j);
        vf p = exp2v(load_n(x + j, m) - most);
        if (m < W) p = select(lanes_in(0, 0, m), p, vf{});
        sum += p;
        store_n(x + j, bf16 ? rounded_to_bf16(p) : p, m);
      }
      w.l[h] = hsum(sum);
    }
    bool add = false;
    runs(from, to, size, [&](int64_t row, int64_t at, int64_t m) ESFT_LAMBDA {
      mix_all<H>(s + at, values(t) + row * value_width + kv * g.dv, m, w.o, add);
      add = true;
    });
  }

  // Stretch i of a row. s: [kHeads][kStretch].
  void stretch(int64_t t, int64_t kv, int64_t i, const float* query, float* s, const Partial& w) const {
    const int64_t begin = (first(t) / kStretch + i) * kStretch, from = max_of(begin, first(t));
    const int64_t to = min_of(begin + kStretch, (int64_t)positions[t] + 1);
    for (int64_t h = 0; h < g.group;) {
      const Partial at = {w.m + h, w.l + h, w.o + h * g.dvp};
      const float* y = query + h * (wide_k + wide_r);
      if (g.group - h >= kHeads) {
        heads<kHeads>(t, kv, from, to, y, s, at);
        h += kHeads;
      } else {
        heads<1>(t, kv, from, to, y, s, at);
        h++;
      }
    }
  }

  // Into `sum` what a further stretch found.
  void join(const Partial& sum, const Partial& more) const {
    for (int64_t h = 0; h < g.group; h++) {
      const float top = sum.m[h] > more.m[h] ? sum.m[h] : more.m[h];
      const float x = sum.m[h] == top ? 1.0f : exp2v(splat(sum.m[h] - top))[0],
                  y = more.m[h] == top ? 1.0f : exp2v(splat(more.m[h] - top))[0];
      sum.m[h] = top;
      sum.l[h] = sum.l[h] * x + more.l[h] * y;
      float* o = sum.o + h * g.dvp;
      for (int64_t c = 0; c < g.dvp; c += W) store(o + c, load(o + c) * splat(x) + load(more.o + h * g.dvp + c) * splat(y));
    }
  }
  void finish(int64_t t, int64_t kv, const Partial& w) const {
    for (int64_t i = 0; i < g.group; i++) {
      const int64_t h = kv * g.group + i;
      float sum = w.l[i], factor = 1.0f;
      if (sinks.data) {
        const float sink = sinks.at(h), top = sink > w.m[i] ? sink : w.m[i];
        factor = exp2v(splat(w.m[i] - top))[0];
        sum = sum * factor + exp2v(splat(sink - top))[0];
      }
      const vf inv = splat(factor / sum);
      float* y = out.at(t, h * g.dv);
      for (int64_t c = 0; c < g.dv; c += W) store_n(y + c, load(w.o + i * g.dvp + c) * inv, min_of(W, g.dv - c));
    }
  }

  void run(Context& ctx, int64_t* first_stretch, int64_t shared) const {
    const int64_t query = round_up(query_size(), W), scratch = query + kHeads * kStretch + 2 * partial_size();
    const auto scratch_of = [&](int worker) { return static_cast<float*>(ctx.worker_scratch(worker, scratch * 4)); };
    if (shared == 0) {
      parallel_for(ctx, g.T * g.G, [&](int64_t i, int worker) {
        const int64_t t = g.T - 1 - i / g.G, kv = i % g.G;  // late tokens see the most
        float *y = scratch_of(worker), *s = y + query;
        const Partial sum = partial_at(s + kHeads * kStretch), more = partial_at(s + kHeads * kStretch + partial_size());
        queries(t, kv, y);
        for (int64_t j = 0; j < stretches(t); j++) {
          stretch(t, kv, j, y, s, j ? more : sum);
          if (j) join(sum, more);
        }
        finish(t, kv, sum);
      });
      return;
    }
    float* partials = reinterpret_cast<float*>(first_stretch + round_up(g.T + 1, 8));
    parallel_for(ctx, first_stretch[g.T] * g.G, [&](int64_t i, int worker) {
      const int64_t n = i / g.G, kv = i % g.G;
      int64_t t = 0;
      while (first_stretch[t + 1] <= n) t++;
      float *y = scratch_of(worker), *s = y + query;
      queries(t, kv, y);
      stretch(t, kv, n - first_stretch[t], y, s, partial_at(partials + i * partial_size()));
    });
    parallel_for(ctx, g.T * g.G, [&](int64_t i, int) {
      const int64_t t = i / g.G, kv = i % g.G;
      const auto at = [&](int64_t j) { return partial_at(partials + ((first_stretch[t] + j) * g.G + kv) * partial_size()); };
      for (int64_t j = 1; j < stretches(t); j++) join(at(0), at(j));
      finish(t, kv, at(0));
    });
  }
};

template <class C>
void cached(const esft_attention_cached_args& a, Context& ctx) {
  Cached<C> f;
  Shape& g = f.g;
  g = shape_of(a);
  g.dvp = round_up(g.dv, W);
  f.a = &a;
  f.q = matrix(a.q), f.k = matrix(a.k), f.v = matrix(a.v), f.ks = matrix(a.k_shared), f.out = matrix(a.out);
  f.sinks = sinks_of(a.sinks);
  f.bf16 = a.precision == 1;
  f.separate_values = present(a.v);
  f.key_width = g.G * g.k_dim + g.dr;
  f.value_width = f.separate_values ? g.G * g.dv : f.key_width;
  f.wide_k = round_up(g.k_dim, W), f.wide_r = round_up(g.dr, W);
  f.positions = data<int32_t>(a.positions);
  const int32_t* start = data<int32_t>(a.doc_start);

  // Rows too few to keep the threads busy are cut into their stretches.
  const bool few = g.T * g.G < 4 * ctx.threads();
  Carve probe = {nullptr, 0};
  int32_t* document;
  int64_t* first_stretch;
  int64_t total = 0;
  for (int64_t t = 0; few && t < g.T; t++) total += f.stretches(t);
  if (total == g.T) total = 0;  // nothing to cut
  for (int pass = 0; pass < 2; pass++) {
    if (pass) probe = Carve{static_cast<char*>(ctx.shared_scratch(probe.used)), 0};
    document = probe.take<int32_t>(g.T);
    first_stretch = probe.take<int64_t>(round_up(g.T + 1, 8));
    probe.take<float>(total * g.G * f.partial_size());
  }
  f.document = document;
  first_stretch[0] = 0;
  for (int64_t t = 0, n = -1; t < g.T; t++) {
    document[t] = (int32_t)(n += start[t] == t);
    first_stretch[t + 1] = first_stretch[t] + f.stretches(t);
  }
  if (g.T * (f.key_width + f.value_width) <= 16384)
    for (int64_t t = 0; t < g.T; t++) f.store_row(t);
  else
    parallel_for(ctx, g.T, [&](int64_t t, int) { f.store_row(t); });
  if (present(a.out)) f.run(ctx, first_stretch, total);
}

}  // namespace
}  // namespace attn

void attention_cached(const esft_attention_cached_args& a, Context& ctx) {
  check_cached_rows("attention_cached", a.doc_start, a.positions, a.k_cache, a.window, a.chunk);
  if (rows(a.q) == 0) return;
  if (a.k_cache.items[0].dtype == ESFT_BF16)
    attn::cached<attn::BF16Cache>(a, ctx);
  else
    attn::cached<attn::F32Cache>(a, ctx);
}

}  // namespace esft::cpu::ESFT_ISA
