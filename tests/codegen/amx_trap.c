/* Executes AMX instructions on machines without them: they are illegal there, and the handler of
 * the signal does what Intel's SDM (volume 2, chapter 3) says, with the faults that it names as
 * errors. Written from the manual alone, apart from tfc's own meaning of tiles.
 *
 * amx_grant answers arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) as a system with AMX does.
 */
#define _GNU_SOURCE
#include <immintrin.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <math.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>

enum { TILES = 8, ROWS = 16, BYTES = 64 };
enum { LDTILECFG, TILERELEASE, TILEZERO, TILELOADD, TILESTORED, DOTS, COUNTERS };

typedef struct {
  int configured;
  unsigned rows[TILES], bytes[TILES];
  uint8_t data[TILES][ROWS][BYTES];
} state;

static _Thread_local state tiles;
static int64_t counts[COUNTERS];
static int granted, asked;
static char error[256];
static struct sigaction before;

static void fail(const char *what, const uint8_t *code) {
  if (!error[0])
    snprintf(error, sizeof error, "%s at %02x %02x %02x %02x %02x", what, code[0], code[1],
             code[2], code[3], code[4]);
}

static void count(int which) { __atomic_fetch_add(&counts[which], 1, __ATOMIC_RELAXED); }

static const int registers[16] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

typedef struct {
  int pp, opcode, vvvv, mod, reg, rm, has_sib;
  int64_t address, stride;
  size_t size;
} instruction;

/* VEX.128.0F38.W0 with three bytes of prefix; everything else is not AMX. */
static int decode(const uint8_t *code, const greg_t *r, instruction *found) {
  const uint8_t *at = code;
  if (*at++ != 0xC4) return 0;
  int x = !(*at & 0x40), b = !(*at & 0x20), extended = !(*at & 0x80);
  if ((*at++ & 0x1F) != 2) return 0;
  if (*at & 0x84) return 0;
  found->pp = *at & 3;
  found->vvvv = (~*at++ >> 3) & 15;
  found->opcode = *at++;
  if (found->opcode != 0x49 && found->opcode != 0x4B && found->opcode != 0x5C &&
      found->opcode != 0x5E)
    return 0;
  found->mod = *at >> 6;
  found->reg = ((*at >> 3) & 7) | extended << 3;
  found->rm = *at++ & 7;
  found->has_sib = found->mod != 3 && found->rm == 4;
  found->address = found->stride = 0;
  if (found->mod == 3) {
    found->rm |= b << 3;
  } else if (found->has_sib) {
    int scale = *at >> 6, index = ((*at >> 3) & 7) | x << 3, base = (*at & 7);
    at++;
    if (index != 4) found->stride = (int64_t)((uint64_t)r[registers[index]] << scale);
    if (found->mod == 0 && base == 5) {
      int32_t far;
      memcpy(&far, at, 4);
      at += 4;
      found->address = far;
    } else {
      found->address = r[registers[base | b << 3]];
    }
  } else if (found->mod == 0 && found->rm == 5) {
    int32_t far;
    memcpy(&far, at, 4);
    at += 4;
    found->address = (int64_t)at + far;
  } else {
    found->address = r[registers[found->rm | b << 3]];
  }
  if (found->mod == 1) {
    found->address += (int8_t)*at++;
  } else if (found->mod == 2) {
    int32_t far;
    memcpy(&far, at, 4);
    at += 4;
    found->address += far;
  }
  found->size = (size_t)(at - code);
  return 1;
}

static void configure(const uint8_t *config, const uint8_t *code) {
  if (config[0] != 1) fail("a palette other than 1", code);
  for (int i = 1; i < 16; i++)
    if (config[i]) fail("a reserved byte or a start row", code);
  for (int i = 32; i < 48; i++)
    if (config[i]) fail("a width of a tile behind the last", code);
  for (int i = 56; i < 64; i++)
    if (config[i]) fail("a height of a tile behind the last", code);
  memset(&tiles, 0, sizeof tiles);
  tiles.configured = 1;
  for (int i = 0; i < TILES; i++) {
    tiles.bytes[i] = config[16 + 2 * i] | config[17 + 2 * i] << 8;
    tiles.rows[i] = config[48 + i];
    int large = tiles.bytes[i] > BYTES || tiles.rows[i] > ROWS;
    if (large) fail("a tile too large", code);
    if (!tiles.bytes[i] != !tiles.rows[i]) fail("a tile of no area", code);
    if (large) tiles.bytes[i] = tiles.rows[i] = 0;
  }
}

static int known(int tile, const uint8_t *code) {
  if (tile < TILES && tiles.configured && tiles.rows[tile]) return 1;
  fail("a tile that is not configured", code);
  return 0;
}

static void rest_is_zero(int tile) {
  for (unsigned m = 0; m < ROWS; m++)
    if (m >= tiles.rows[tile])
      memset(tiles.data[tile][m], 0, BYTES);
    else
      memset(tiles.data[tile][m] + tiles.bytes[tile], 0, BYTES - tiles.bytes[tile]);
}

static float wide(const uint8_t *bf16) {
  uint32_t bits = (uint32_t)bf16[0] << 16 | (uint32_t)bf16[1] << 24;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static void dot(const instruction *i, const uint8_t *code) {
  int to = i->reg, a = i->rm, b = i->vvvv;
  if (i->mod != 3 || !known(to, code) || !known(a, code) || !known(b, code)) return;
  if (to == a || to == b || a == b) fail("one tile twice", code);
  if (tiles.rows[to] != tiles.rows[a] || tiles.bytes[a] != 4 * tiles.rows[b] ||
      tiles.bytes[to] != tiles.bytes[b] || tiles.bytes[to] % 4) {
    fail("tiles that do not fit", code);
    return;
  }
  unsigned mxcsr = _mm_getcsr();
  _mm_setcsr(0x9FC0); /* denormals are zeros, in and out; to nearest even; no exceptions */
  for (unsigned m = 0; m < tiles.rows[to]; m++) {
    for (unsigned n = 0; n < tiles.bytes[to] / 4; n++) {
      uint8_t *sum = tiles.data[to][m] + 4 * n;
      volatile float even = 0, odd = 0;
      int32_t total;
      memcpy(&total, sum, 4);
      for (unsigned k = 0; k < tiles.rows[b]; k++) {
        const uint8_t *x = tiles.data[a][m] + 4 * k, *y = tiles.data[b][k] + 4 * n;
        if (i->opcode == 0x5C) {
          even = fmaf(wide(x), wide(y), even);
          odd = fmaf(wide(x + 2), wide(y + 2), odd);
          continue;
        }
        for (int j = 0; j < 4; j++) {
          int32_t left = i->pp >= 2 ? (int8_t)x[j] : x[j];              /* F3, F2 */
          int32_t right = i->pp == 1 || i->pp == 3 ? (int8_t)y[j] : y[j]; /* 66, F2 */
          total = (int32_t)((uint32_t)total + (uint32_t)(left * right));
        }
      }
      if (i->opcode == 0x5C) {
        volatile float both = even + odd, old;
        memcpy((void *)&old, sum, 4);
        volatile float next = old + both;
        memcpy(sum, (void *)&next, 4);
      } else {
        memcpy(sum, &total, 4);
      }
    }
  }
  _mm_setcsr(mxcsr);
  rest_is_zero(to);
  count(DOTS);
}

static void move(const instruction *i, const uint8_t *code, int store) {
  if (!i->has_sib) fail("no sibmem", code);
  if (!known(i->reg, code)) return;
  for (unsigned m = 0; m < tiles.rows[i->reg]; m++) {
    uint8_t *there = (uint8_t *)(i->address + (int64_t)m * i->stride);
    if (store)
      memcpy(there, tiles.data[i->reg][m], tiles.bytes[i->reg]);
    else
      memcpy(tiles.data[i->reg][m], there, tiles.bytes[i->reg]);
  }
  if (!store) rest_is_zero(i->reg);
  count(store ? TILESTORED : TILELOADD);
}

static void on_illegal(int number, siginfo_t *info, void *context) {
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  const uint8_t *code = (const uint8_t *)r[REG_RIP];
  instruction i;
  if (!decode(code, r, &i)) {
    if (before.sa_flags & SA_SIGINFO && before.sa_sigaction)
      before.sa_sigaction(number, info, context);
    else
      signal(SIGILL, SIG_DFL);
    return;
  }
  if (i.opcode == 0x5C && i.pp != 2) fail("an unknown instruction", code);
  if (i.opcode == 0x5C || i.opcode == 0x5E) {
    dot(&i, code);
  } else if (i.vvvv != 0) {
    fail("vvvv is in use", code);
  } else if (i.opcode == 0x4B && i.pp != 0 && i.mod != 3) {
    move(&i, code, i.pp == 2);
  } else if (i.opcode == 0x49 && i.pp == 0 && i.mod != 3 && i.reg == 0) {
    configure((const uint8_t *)i.address, code);
    count(LDTILECFG);
  } else if (i.opcode == 0x49 && i.pp == 0 && i.mod == 3 && i.reg == 0 && i.rm == 0) {
    memset(&tiles, 0, sizeof tiles);
    count(TILERELEASE);
  } else if (i.opcode == 0x49 && i.pp == 3 && i.mod == 3 && i.rm == 0) {
    if (known(i.reg, code)) memset(tiles.data[i.reg], 0, sizeof tiles.data[0]);
    count(TILEZERO);
  } else {
    fail("an unknown instruction", code);
  }
  r[REG_RIP] += (greg_t)i.size;
}

void amx_install(void) {
  struct sigaction action = {0};
  action.sa_sigaction = on_illegal;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &action, &before);
}

void amx_uninstall(void) { sigaction(SIGILL, &before, NULL); }

const char *amx_error(void) { return error; }

void amx_forget(void) { error[0] = 0; }

void amx_counts(int64_t *out) {
  for (int i = 0; i < COUNTERS; i++) out[i] = __atomic_exchange_n(&counts[i], 0, __ATOMIC_RELAXED);
}

static void on_call(int number, siginfo_t *info, void *context) {
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  (void)number;
  (void)info;
  asked++;
  r[REG_RAX] = r[REG_RSI] == 18 && granted ? 0 : -1;
}

int amx_asked(void) { return asked; }

/* For the rest of the process, with `answer` to requests for tile registers. */
int amx_grant(int answer) {
  struct sigaction action = {0};
  struct sock_filter rules[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x1023, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {sizeof rules / sizeof rules[0], rules};
  granted = answer;
  action.sa_sigaction = on_call;
  action.sa_flags = SA_SIGINFO;
  if (sigaction(SIGSYS, &action, NULL)) return -1;
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return -1;
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}
