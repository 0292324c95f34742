// One decoding step of gaze attention on a CPU: scores, TopK, and attention over the chosen pages, text and context. Each
// page is read once per KV head, and nothing of the size of the cache is held. `decode_native.py` calls it and states the
// contract; setup.py builds it once per instruction set. No header of torch or Python is needed.
//
// Shapes: B rows, G KV heads, n query heads per KV head, R regions of m slots, T text and context columns, D head size,
// s selections per KV head (1, or n) of K regions. An item is one KV head of one row.
//
// The sums of an item are taken in an order that its own selection alone decides: neither the other rows of a batch nor
// the number of threads changes a bit of the result.

#include <cmath>
#include <functional>
#include <type_traits>
#include <vector>

#include "lanes.h"
#include "team.h"

// The argument of `gaze_decode_step`; decode_native.Step has the same fields in the same order.
struct Step {
    const void* q;              // [B, G, n, D]
    const void* page_keys;      // page r of an item at (item * room + r) * m * D
    const void* page_values;
    const void* flat_keys;      // column t of row b and KV head g at b * flat_row + g * flat_group + t * D
    const void* flat_values;
    const float* descriptors;   // [B, G, R, D]; null: `regions` is given
    const uint8_t* page_seen;   // bool [B, R * m]; null: all are seen
    const uint8_t* flat_seen;   // bool [B, T]; null: all are seen
    const uint8_t* hidden[2];   // per pool, bool [B, R]: may not be chosen; null: none
    const uint8_t* dropped[2];  // per pool, bool [B, most]: ranks that stay empty; null: none
    int64_t* regions;           // [B, G, s, K], -1 for none; null: every page, for everyone
    int64_t* visual;            // out, [B, G, n]: slots that entered the softmax
    void* out;                  // [B, G, n, D]
    RunParallel run_parallel;   // null: none
    int64_t most[2];            // per pool, its places in K; 0: no such pool
    int64_t batch, groups, heads, dim, num_regions, slots, room, columns, flat_row, flat_group, selections;
    int64_t is_bf16, threads;
    double scaling;
};

namespace {

constexpr int64_t CHUNK = 64;                   // tokens whose scores are held at a time
constexpr int64_t PAGES_PER_TASK = 32;
constexpr int64_t BYTES_PER_THREAD = 64 << 10;  // for less it is not worth waking one

// Call a function of a number of heads that the compiler knows, for `count` heads in groups of at most HEADS_AT_ONCE.
template <class F>
inline void in_groups(int count, F&& call) {
    for (int first = 0; first < count; first += HEADS_AT_ONCE) {
        switch (std::min(count - first, HEADS_AT_ONCE)) {
            case 1: call(std::integral_constant<int, 1>(), first); break;
            case 2: call(std::integral_constant<int, 2>(), first); break;
            case 3: call(std::integral_constant<int, 3>(), first); break;
            default: call(std::integral_constant<int, HEADS_AT_ONCE>(), first);
        }
    }
}

// The softmax of one item's query heads so far: highest score, total weight, and values weighted but not yet divided.
struct Softmax {
    int64_t heads, dim;
    float* memory;

    static int64_t size(const Step& step) { return step.heads * (2 + step.dim); }
    float& peak(int64_t h) { return memory[h]; }
    float& total(int64_t h) { return memory[heads + h]; }
    float* values(int64_t h) { return memory + 2 * heads + h * dim; }

    void clear() {
        std::fill(memory, memory + heads, NOTHING);
        std::fill(memory + heads, memory + heads * (2 + dim), 0.0f);
    }
    // Where `score` is a new peak, bring what was gathered before under it.
    void raise(int64_t h, float score) {
        if (!(score > peak(h))) return;
        const float shrink = std::exp(peak(h) - score);
        peak(h) = score;
        total(h) *= shrink;
        for (int64_t d = 0; d < dim; d += LANES) store(values(h) + d, load(values(h) + d) * shrink);
    }
    void merge(Softmax other) {
        for (int64_t h = 0; h < heads; h++) {
            if (!other.total(h)) continue;  // nothing was gathered
            raise(h, other.peak(h));
            const float weight = std::exp(other.peak(h) - peak(h));
            total(h) += other.total(h) * weight;
            for (int64_t d = 0; d < dim; d += LANES)
                store(values(h) + d, load(values(h) + d) + load(other.values(h) + d) * weight);
        }
    }
    // Turn scores [count], a multiple of LANES, into weights, and add them up.
    void weigh(int64_t h, float* scores, int64_t count) {
        vec most = load(scores), weights[1] = {};
        for (int64_t t = LANES; t < count; t += LANES) {
            const vec x = load(scores + t);
            most = x > most ? x : most;
        }
        raise(h, highest(most));
        const float top = peak(h);
        for (int64_t t = 0; t < count; t += LANES) {
            const vec weight = exponential(load(scores + t) - top);
            store(scores + t, weight);
            weights[0] += weight;
        }
        total(h) += sums(weights)[0];
    }
};

// A page that some query heads want, a bit each.
struct Wanted {
    int64_t page;
    uint64_t heads;
};

// Memory of one thread, kept from step to step.
struct Scratch {
    std::vector<float> floats;
    std::vector<int64_t> ranks;
    std::vector<uint64_t> marks;

    static Scratch& mine() {
        static thread_local Scratch scratch;
        return scratch;
    }
    float* take(int64_t count) {
        if (int64_t(floats.size()) < count) floats.resize(count);
        return floats.data();
    }
};

template <class T>
class Work {
public:
    explicit Work(const Step& step)
        : step(step), items(step.batch * step.groups), kept(step.most[0] + step.most[1]),
          at_most(step.regions ? std::min(step.num_regions, kept * step.selections) : step.num_regions),
          parts(std::max<int64_t>(1, (at_most + PAGES_PER_TASK - 1) / PAGES_PER_TASK)), lists(items),
          partial(items * parts * Softmax::size(step)), entered(items * parts * step.heads) {}

    void run() {
        const int64_t tokens = items * (at_most * step.slots + step.columns);
        threads = std::clamp<int64_t>(tokens * step.dim * 2 * int64_t(sizeof(T)) / BYTES_PER_THREAD, 1, step.threads);
        if (parts == 1) {
            in_parallel<&Work::whole_item>(items);
        } else {
            in_parallel<&Work::choose>(items);
            in_parallel<&Work::gather>(items * parts);
            in_parallel<&Work::finish>(items);
        }
    }

private:
    const Step& step;
    const int64_t items, kept, at_most, parts;
    std::vector<std::vector<Wanted>> lists;  // per item, by rising page
    std::vector<float> partial;              // [items, parts], a Softmax each
    std::vector<int64_t> entered;            // [items, parts, n]
    int64_t threads = 1;

    int64_t row(int64_t item) const { return item / step.groups; }
    Softmax part_of(int64_t task) {
        return {step.heads, step.dim, partial.data() + task * Softmax::size(step)};
    }

    template <void (Work::*CALL)(int64_t)>
    void in_parallel(int64_t count) {
        Team::share(step.run_parallel, threads, count, [this](int64_t task) { (this->*CALL)(task); });
    }

    void whole_item(int64_t item) {
        choose(item);
        gather(item);
        finish(item);
    }

    // The item's queries in fp32, times `scaling`, [n, D].
    void queries(int64_t item, float scaling, float* out) const {
        const T* q = static_cast<const T*>(step.q) + item * step.heads * step.dim;
        for (int64_t i = 0; i < step.heads * step.dim; i += LANES) store(out + i, load(q + i) * scaling);
    }

    // The item's pages, and whose they are; its part of `regions` too where descriptors are given.
    void choose(int64_t item) {
        Scratch& scratch = Scratch::mine();
        if (step.descriptors) rank_regions(item, scratch);
        const uint64_t all = ~uint64_t(0) >> (64 - step.heads);
        std::vector<uint64_t>& marks = scratch.marks;
        marks.assign(step.num_regions, step.regions ? 0 : all);
        for (int64_t i = 0; step.regions && i < step.selections; i++) {
            const int64_t* chosen = step.regions + (item * step.selections + i) * kept;
            for (int64_t k = 0; k < kept; k++)
                if (chosen[k] >= 0) marks[chosen[k]] |= step.selections == 1 ? all : uint64_t(1) << i;
        }
        for (int64_t r = 0; r < step.num_regions; r++)
            if (marks[r]) lists[item].push_back({r, marks[r]});
    }

    // Scores of queries and descriptors (of the mean query where all heads choose together), and the K highest.
    void rank_regions(int64_t item, Scratch& scratch) {
        const int64_t dim = step.dim, count = step.num_regions, s = step.selections;
        float* q = scratch.take(step.heads * dim + s * count);
        float* scores = q + step.heads * dim;
        queries(item, 1.0f, q);
        for (int64_t d = 0; s == 1 && d < dim; d += LANES) {
            vec total = load(q + d);
            for (int64_t h = 1; h < step.heads; h++) total += load(q + h * dim + d);
            store(q + d, total / float(step.heads));
        }
        in_groups(int(s), [&](auto number, int first) {
            constexpr int H = decltype(number)::value;
            const float* each[H];
            float* out[H];
            for (int h = 0; h < H; h++) each[h] = q + (first + h) * dim, out[h] = scores + (first + h) * count;
            products<H>(each, step.descriptors + item * count * dim, count, dim, out);
        });
        for (int64_t i = 0; i < s; i++) {
            int64_t* out = step.regions + (item * s + i) * kept;
            for (int pool = 0; pool < 2; out += step.most[pool++]) best_of_pool(item, pool, scores + i * count, out);
        }
    }

    // Places of a pool by falling score, ties to the lowest region number, as gaze/routing.py ranks them.
    void best_of_pool(int64_t item, int pool, const float* scores, int64_t* out) {
        const int64_t count = step.num_regions, most = step.most[pool];
        if (!most) return;
        const uint8_t* hidden = step.hidden[pool] ? step.hidden[pool] + row(item) * count : nullptr;
        const uint8_t* dropped = step.dropped[pool] ? step.dropped[pool] + row(item) * most : nullptr;
        std::vector<int64_t>& ranks = Scratch::mine().ranks;  // the score's place among floats, then -number
        ranks.resize(count);
        for (int64_t r = 0; r < count; r++) {
            float score = scores[r] + 0.0f;  // -0 becomes 0: the two tie
            if (hidden) score = hidden[r] ? NOTHING : std::max(score, std::numeric_limits<float>::lowest());
            int32_t raw;
            std::memcpy(&raw, &score, 4);
            raw ^= (raw >> 31) & 0x7fffffff;
            ranks[r] = int64_t(uint64_t(int64_t(raw)) << 32 | uint64_t(count - 1 - r));
        }
        const auto falling = std::greater<int64_t>();
        if (most < count) std::nth_element(ranks.begin(), ranks.begin() + most - 1, ranks.end(), falling);
        std::sort(ranks.begin(), ranks.begin() + most, falling);
        for (int64_t k = 0; k < most; k++)
            out[k] = dropped && dropped[k] ? -1 : count - 1 - (ranks[k] & 0xffffffff);
    }

    // Attention over one part of an item's pages; text and context go with the first.
    void gather(int64_t task) {
        const int64_t item = task / parts, part = task % parts, slots = step.slots, page = slots * step.dim;
        const std::vector<Wanted>& list = lists[item];
        const int64_t from = part * PAGES_PER_TASK, to = std::min(from + PAGES_PER_TASK, int64_t(list.size()));
        float* q = Scratch::mine().take(step.heads * step.dim + HEADS_AT_ONCE * CHUNK);
        queries(item, float(step.scaling), q);
        Softmax so_far = part_of(task);
        so_far.clear();
        const T* keys = static_cast<const T*>(step.page_keys) + item * step.room * page;
        const T* values = static_cast<const T*>(step.page_values) + item * step.room * page;
        const uint8_t* seen = step.page_seen ? step.page_seen + row(item) * step.num_regions * slots : nullptr;
        for (int64_t i = from; i < to; i++) {
            const int64_t r = list[i].page;
            const int64_t visible = attend(so_far, list[i].heads, q, keys + r * page, values + r * page, slots,
                                           seen ? seen + r * slots : nullptr);
            for (int64_t h = 0; h < step.heads; h++)
                if (list[i].heads >> h & 1) entered[task * step.heads + h] += visible;
        }
        if (part) return;
        const int64_t flat = row(item) * step.flat_row + item % step.groups * step.flat_group;
        attend(so_far, ~uint64_t(0), q, static_cast<const T*>(step.flat_keys) + flat,
               static_cast<const T*>(step.flat_values) + flat, step.columns,
               step.flat_seen ? step.flat_seen + row(item) * step.columns : nullptr);
    }

    // Let `count` tokens into the softmax of the query heads in `mark`; how many of them are seen.
    int64_t attend(Softmax& so_far, uint64_t mark, float* q, const T* keys, const T* values, int64_t count,
                   const uint8_t* seen) const {
        float* scores = q + step.heads * step.dim;
        int wanting[64], number_wanting = 0;
        for (int h = 0; h < step.heads; h++)
            if (mark >> h & 1) wanting[number_wanting++] = h;
        int64_t all_visible = 0;
        for (int64_t first = 0; first < count; first += CHUNK) {
            const int64_t here = std::min(CHUNK, count - first), padded = (here + LANES - 1) / LANES * LANES;
            const uint8_t* seen_here = seen ? seen + first : nullptr;
            const int64_t visible = seen ? here - std::count(seen_here, seen_here + here, 0) : here;
            all_visible += visible;
            if (!visible) continue;
            in_groups(number_wanting, [&](auto number, int group) {
                constexpr int H = decltype(number)::value;
                const float *each[H], *weights[H];
                float *rows[H], *out[H];
                for (int h = 0; h < H; h++) {
                    each[h] = q + wanting[group + h] * step.dim;
                    weights[h] = rows[h] = scores + h * CHUNK;
                    out[h] = so_far.values(wanting[group + h]);
                }
                products<H>(each, keys + first * step.dim, here, step.dim, rows);
                for (int h = 0; h < H; h++) {
                    for (int64_t t = 0; visible < here && t < here; t++)
                        if (!seen_here[t]) rows[h][t] = NOTHING;
                    std::fill(rows[h] + here, rows[h] + padded, NOTHING);
                    so_far.weigh(wanting[group + h], rows[h], padded);
                }
                mixtures<H>(weights, values + first * step.dim, here, step.dim, out);
            });
        }
        return all_visible;
    }

    void finish(int64_t item) {
        Softmax whole = part_of(item * parts);
        int64_t* visual = step.visual + item * step.heads;
        std::copy_n(entered.begin() + item * parts * step.heads, step.heads, visual);
        for (int64_t task = item * parts + 1; task < (item + 1) * parts; task++) {
            whole.merge(part_of(task));
            for (int64_t h = 0; h < step.heads; h++) visual[h] += entered[task * step.heads + h];
        }
        T* out = static_cast<T*>(step.out) + item * step.heads * step.dim;
        for (int64_t h = 0; h < step.heads; h++)
            for (int64_t d = 0; d < step.dim; d++) narrow(whole.values(h)[d] / whole.total(h), out[h * step.dim + d]);
    }
};

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Checksum of the source that this was built from.
EXPORTED uint32_t gaze_decode_source() { return GAZE_SOURCE; }

EXPORTED void gaze_decode_forget_load() { Team::forget(); }

EXPORTED void gaze_decode_step(const Step* step) {
    if (step->is_bf16)
        Work<bf16>(*step).run();
    else
        Work<float>(*step).run();
}
