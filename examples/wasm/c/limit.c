// Allows an amount up to the endpoint's variable `limit`, for a sender that waits for the answer.
//
// Its world has one function, and it is called once in its life: so memory is only ever taken.
#include "handler.h"

// What it wants; whoever installs it grants that once.
__asm__(".section .custom_section.bellwire.permissions,\"\",@\n.ascii \"respond\\n\"\n");

extern uint8_t __heap_base;
static size_t taken;

// Where what is given to this component is put.
__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
  const size_t begin = ((size_t)&__heap_base + taken + align - 1) & ~(align - 1);
  const size_t end = begin + size, page = 65536;
  const size_t pages = __builtin_wasm_memory_size(0);
  if (end > pages * page && __builtin_wasm_memory_grow(0, (end - pages * page + page - 1) / page) == (size_t)-1) __builtin_trap();
  taken = end - (size_t)&__heap_base;
  const uint8_t *from = old;
  for (size_t n = 0; n < old_size && n < size; n++) ((uint8_t *)begin)[n] = from[n];
  return (void *)begin;
}

#define TEXT(literal) ((string){literal, sizeof(literal) - 1})

// A whole number, as it stands at the beginning of a text. False if none does.
static bool number(const char *text, size_t length, uint64_t *value) {
  size_t n = 0;
  *value = 0;
  while (n < length && text[n] == ' ') n++;
  const size_t first = n;
  for (; n < length && text[n] >= '0' && text[n] <= '9' && n - first < 18; n++) *value = *value * 10 + (uint64_t)(text[n] - '0');
  return n > first;
}

// The number of the first member of this name, which is enough for payloads that are made for this handler.
static bool member(const list_u8 *json, string name, uint64_t *value) {
  const char *text = (const char *)json->bytes;
  for (size_t at = 0; at + name.length <= json->length; at++) {
    size_t n = 0;
    while (n < name.length && text[at + n] == name.text[n]) n++;
    if (n == name.length) return number(text + at + n, json->length - at - n, value);
  }
  return false;
}

static result said;

__attribute__((export_name("handle"))) result *handle(const event *event) {
  option_string limit;
  uint64_t most, amount;
  host_variable("limit", 5, &limit);
  if (!limit.is_some || !number(limit.value.text, limit.value.length, &most)) {
    said.is_error = true;
    said.error = TEXT("the endpoint has no variable `limit`, a whole number");
    return &said;
  }
  if (!member(&event->payload, TEXT("\"amount\":"), &amount)) {
    said.answered.tag = ANSWER_FAIL;
    said.answered.fail = TEXT("the payload has no whole number `amount`");
    return &said;
  }
  static const header headers[] = {{{"content-type", 12}, {"application/json", 16}}};
  const bool allowed = amount <= most;
  const string log = allowed ? TEXT("allowed") : TEXT("denied");
  const string body = allowed ? TEXT("{\"allow\":true}") : TEXT("{\"allow\":false}");
  host_log(LEVEL_INFO, log.text, log.length);
  said.answered.tag = ANSWER_RESPOND;
  said.answered.respond.status = 200;
  said.answered.respond.headers = (list_header){headers, 1};
  said.answered.respond.body = (list_u8){(const uint8_t *)body.text, body.length};
  return &said;
}
