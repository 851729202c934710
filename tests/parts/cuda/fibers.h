// The threads of a kernel as fibers of one thread of the machine: each has a stack of its own, and goes on until it
// waits. Real threads would have to be woken by the system at each of thousands of barriers.
#include <setjmp.h>
#include <ucontext.h>

#include <functional>
#include <memory>
#include <vector>

struct Place { int x, y, z; };
struct Block;

struct Fiber {
  Place thread, place;
  Block* block;
  std::unique_ptr<char[]> stack;
  jmp_buf at;
  bool is_done = false;
};
static std::vector<Fiber> fibers;
static size_t running;
static jmp_buf home;
static std::function<void()> body;
static constexpr size_t STACK = 1 << 18;

// The one before goes on; behind all of them whoever started them. The last is the first to go, since the first is
// most often the one that writes: what others do without waiting for it, they do before.
inline void let_another_go_on() {
  for (size_t i = 1; i <= fibers.size(); i++) {
    const size_t next = (running + fibers.size() - i) % fibers.size();
    if (fibers[next].is_done) continue;
    running = next;
    _longjmp(fibers[next].at, 1);
  }
  _longjmp(home, 1);
}

inline void pause_fiber() {
  if (_setjmp(fibers[running].at) == 0) let_another_go_on();
}

struct Gate {
  int size, here = 0, turn = 0;
  explicit Gate(int size) : size(size) {}
  void wait() {
    const int mine = turn;
    if (++here == size) return open();
    while (turn == mine) pause_fiber();
  }
  // One fewer will come from now on.
  void drop() {
    if (--size && here == size) open();
  }
  void open() {
    here = 0;
    turn++;
  }
};

inline void begin_fiber() {
  if (_setjmp(fibers[running].at) == 0) _longjmp(home, 1);
  body();
  fibers[running].is_done = true;
  let_another_go_on();
}

// Run all fibers to their ends.
inline void run_fibers(std::function<void()> what) {
  body = std::move(what);
  for (running = 0; running < fibers.size(); running++) {
    fibers[running].stack.reset(new char[STACK]);
    if (_setjmp(home) == 0) {
      ucontext_t start;
      getcontext(&start);
      start.uc_stack.ss_sp = fibers[running].stack.get();
      start.uc_stack.ss_size = STACK;
      makecontext(&start, begin_fiber, 0);
      setcontext(&start);
    }
  }
  running = fibers.size() - 1;
  if (_setjmp(home) == 0) _longjmp(fibers[running].at, 1);
  fibers.clear();
}
