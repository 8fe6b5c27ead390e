/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * secure_log: lines about TLS, made on a reactor and written by the control thread, which also
 * counts those that it leaves out.
 */
#include "app/pollux/nbd/secure_log.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "app/pollux/nbd/connection.h"
#include "lib/base/log.h"
#include "lib/base/log_limit.h"
#include "lib/tls/session.h"
#include "reactor/control.h"

static void write_failure(void *arg)
{
	static struct log_limit limit;
	unsigned left_out;
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	bool may = log_limit_take(&limit, (uint64_t)now.tv_sec, &left_out);
	if (left_out)
		log_notice("nbd", "%u more failures of TLS were not logged", left_out);
	if (may)
		log_notice("nbd", "%s", (const char *)arg);
	free(arg);
}

static void write_session(void *arg)
{
	log_info("nbd", "%s", (const char *)arg);
	free(arg);
}

void secure_log_failure(const struct connection *conn, const char *reason)
{
	char *line;
	if (log_level_now >= LOG_NOTICE && asprintf(&line, "TLS with %s on %s failed: %s",
						    conn->peer, conn->access->uri, reason) > 0)
		control_send(write_failure, line);
}

static void write_refusal(void *arg)
{
	static bool told;
	if (told)
		log_info("nbd", "%s", (const char *)arg);
	else
		log_warning("nbd", "%s (told once)", (const char *)arg);
	told = true;
	free(arg);
}

void secure_log_kernel(const struct connection *conn, bool unfit, const char *reason)
{
	char *line;
	if (unfit && log_level_now < LOG_INFO)
		return;
	if (asprintf(&line, "connection %lu (%s): no kernel TLS: %s", (unsigned long)conn->id,
		     conn->peer, reason) > 0)
		control_send(unfit ? write_session : write_refusal, line);
}

void secure_log_handed_over(const struct connection *conn)
{
	char *line;
	if (log_level_now >= LOG_INFO &&
	    asprintf(&line, "connection %lu (%s): the kernel makes the records from now on",
		     (unsigned long)conn->id, conn->peer) > 0)
		control_send(write_session, line);
}

void secure_log_session(const struct connection *conn, const struct tls_session *session)
{
	struct tls_session_info info;
	char *line;
	if (log_level_now < LOG_INFO)
		return;
	tls_session_info(session, &info);
	if (asprintf(&line, "connection %lu (%s): %s, %s, %s%s%s", (unsigned long)conn->id,
		     conn->peer, info.version, info.cipher, info.key_exchange,
		     info.peer[0] ? ", client " : "", info.peer) > 0)
		control_send(write_session, line);
}
