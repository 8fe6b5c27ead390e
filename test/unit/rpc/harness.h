/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * harness: a server with methods made for tests, and a session whose answers are collected. What
 * the client gets is parsed back from the bytes sent, so a test sees what a client would.
 */
#ifndef POLLUX_TEST_UNIT_RPC_HARNESS_H
#define POLLUX_TEST_UNIT_RPC_HARNESS_H

#include "lib/rpc/rpc.h"

/* The parameters of "echo", one of each type. */
struct echo_params {
	const char *text;
	uint64_t count;
	int64_t offset;
	bool flag;
	double ratio;
	uint64_t size;
	const char *colour;
	const char *uuid;
	json_t *names;
	json_t *options;
	bool count_given;
};

struct harness {
	struct rpc_server *server;
	struct rpc_session *session;
	char *sent;
	size_t sent_bytes;
	unsigned sends;
	unsigned silent_ends; /* told of calls that get no answer */
};

enum { HELD_MAX = 2048 };

/* Calls of "hold", in order of arrival: the test answers them when it likes. */
extern struct rpc_call *held[HELD_MAX];
extern unsigned held_count;
extern unsigned echo_calls; /* how often the handler of "echo" ran */

extern const struct rpc_table test_tables[];

/* A test's setup and teardown; *state is the harness. */
int harness_setup(void **state);
int harness_teardown(void **state);
/* A setup with other methods than the test ones. */
int harness_setup_with(void **state, const struct rpc_table *tables);

int feed(struct harness *harness, const char *text);
/* Everything sent since the last call, as an array of the values. New reference. */
json_t *take_sent(struct harness *harness);
/* Feeds one request and returns its one answer; fails the test if it is not exactly one. */
json_t *ask(struct harness *harness, const char *request);
/* The same for {"method": method, "params": params} with an id of its own, which it checks. */
json_t *call_method(struct harness *harness, const char *method, const char *params);

/* Checks error.code and, where not NULL, error.data.parameter; and that the message names it. */
void assert_error(json_t *answer, int code, const char *parameter);
/* The message of an error answer. */
const char *error_message(json_t *answer);

#endif
