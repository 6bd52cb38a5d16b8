// What `handler.wit` says, as the component model lays it out in the memory of a 32-bit component: for handlers in C that need no more
// than a compiler. Texts are UTF-8, have a length and no zero at their end.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct { const char *text; size_t length; } string;
typedef struct { bool is_some; string value; } option_string;
typedef struct { const string *items; size_t length; } list_string;
typedef struct { string name, value; } header;
typedef struct { const header *items; size_t length; } list_header;
typedef struct { const uint8_t *bytes; size_t length; } list_u8;

typedef struct {
  string source, method, path, query;
  option_string remote;
  list_header headers;
} request;

typedef struct {
  string id;
  option_string event_id;
  string event_type, time;
  uint32_t attempt;
  list_string channels, tags;
  string content_type, dedupe;
  struct { bool is_some; request value; } received;
  list_u8 payload;
} event;

enum { ANSWER_ACK, ANSWER_DROP, ANSWER_RETRY, ANSWER_FAIL, ANSWER_RESPOND };

typedef struct {
  uint8_t tag;
  union {
    string ack, drop, fail;
    struct { struct { bool is_some; uint32_t value; } seconds; string reason; } retry;
    struct { uint16_t status; list_header headers; list_u8 body; } respond;
  };
} answer;

typedef struct {
  bool is_error;
  union { answer answered; string error; };
} result;

enum { LEVEL_DEBUG, LEVEL_INFO, LEVEL_WARN, LEVEL_ERROR };

#define HOST(function) __attribute__((import_module("bellwire:handler/host@1.0.0"), import_name(function)))

HOST("log") void host_log(int level, const char *text, size_t length);
HOST("variable") void host_variable(const char *name, size_t length, option_string *variable);
HOST("secret") void host_secret(const char *name, size_t length, option_string *secret);
