/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * main: starts the reactors, creates what the command line names - bdevs, exports, listeners, one
 * after the other, each asynchronously - and runs the control thread until it is told to end.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "app/pollux/framework_rpc.h"
#include "app/pollux/nbd/connection.h"
#include "app/pollux/nbd/listener.h"
#include "app/pollux/nbd/nbd_rpc.h"
#include "app/pollux/options.h"
#include "app/pollux/rpc_socket.h"
#include "app/pollux/shutdown.h"
#include "app/pollux/stdio_client.h"
#include "app/pollux/target/export_rpc.h"
#include "app/pollux/tls/named.h"
#include "app/pollux/tls/tls_rpc.h"
#include "bdev/malloc/malloc.h"
#include "bdev/modules.h"
#include "bdev/null/null.h"
#include "bdev/nvme/nvme.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/base/size.h"
#include "lib/base/why.h"
#include "reactor/control.h"

enum {
	BUFFERS_DEFAULT_BYTES = 64 << 20, /* of a core */
	BUFFERS_MIN_BYTES = 4 << 20,
	RPC_TABLES_MAX = 32,
	DESCRIPTORS_MIN = 64,
	ONE_SIGNAL_US = 100000,
};

static struct options options;
static struct rpc_server *rpc;
static int exit_status;
static unsigned next_spec, next_handed, next_listen;
static bool tls_begun;

/* ---- Signals ---- */

static struct control_watch signals;

/*
 * A second signal means "now". Two at once are one: timeout(1), and others, send it to the process
 * and then to its group.
 */
static void signal_ready(struct control_watch *watch, uint32_t events)
{
	static uint64_t first;
	struct signalfd_siginfo info;
	if (read(watch->fd, &info, sizeof(info)) != sizeof(info))
		return;
	int number = info.ssi_signo;
	if (first) {
		if (clock_ticks() - first < clock_us_to_ticks(ONE_SIGNAL_US))
			return;
		log_warning("pollux", "second signal: ending at once");
		_exit(128 + number);
	}
	first = clock_ticks();
	log_notice("pollux", "SIG%s: finishing what is in flight", sigabbrev_np(number));
	shutdown_begin(options.shutdown_timeout_ms);
}

/* Before any thread is made: all of them inherit the mask. */
static int block_signals(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	signals.ready = signal_ready;
	return signals.fd < 0 ? -errno : 0;
}

/* ---- What the command line names ---- */

static void create_next(void);

static void fail(const char *why)
{
	fprintf(stderr, "pollux: %s\n", why);
	exit_status = 1;
	shutdown_begin(options.shutdown_timeout_ms);
}

static void fail_spec(const struct spec *spec, const char *why)
{
	char line[1024];
	if (strstr(why, spec->path ? spec->path : spec->text))
		snprintf(line, sizeof(line), "%s", why);
	else
		snprintf(line, sizeof(line), "'%s': %s", spec->text, why);
	fail(line);
}

static void export_ready(void *arg, struct export *export, int error)
{
	const struct spec *spec = arg;
	if (error) {
		fail_spec(spec, strerror(-error));
		return;
	}
	create_next();
}

static void bdev_ready(void *arg, struct bdev *bdev, int error, const char *why)
{
	struct spec *spec = arg;
	char text[512];
	if (error) {
		fail_spec(spec, why);
		return;
	}
	if (shutdown_has_begun())
		return;
	struct export_options export = {
		.name = spec->name,
		.bdev_name = bdev->name,
		.read_only = spec->read_only,
	};
	if (export_create(&export, export_ready, spec, text, sizeof(text)))
		fail_spec(spec, text);
}

static void create_bdev(struct spec *spec)
{
	struct bdev *bdev = NULL;
	char why[512];
	int error;
	if (spec->kind == SPEC_FILE) {
		struct bdev_file_options file = {
			.name = spec->name[0] ? spec->name : NULL,
			.path = spec->path,
			.direct = spec->direct,
			.read_only = spec->read_only,
		};
		bdev_file_create(&file, bdev_ready, spec);
		return;
	}
	if (spec->kind == SPEC_NVME) {
		struct bdev_nvme_options nvme = {.address = spec->path, .nsid = spec->nsid};
		bdev_nvme_open(&nvme, bdev_ready, spec);
		return;
	}
	if (spec->kind == SPEC_MALLOC) {
		struct bdev_malloc_options memory = {
			.name = spec->name[0] ? spec->name : NULL,
			.size_bytes = spec->size_bytes,
			.numa_id = REGION_ANY_NODE,
		};
		error = bdev_malloc_create(&memory, &bdev, why, sizeof(why));
	} else {
		struct bdev_null_options null = {
			.name = spec->name[0] ? spec->name : NULL,
			.size_bytes = spec->size_bytes,
		};
		error = bdev_null_create(&null, &bdev, why, sizeof(why));
	}
	bdev_ready(spec, bdev, error, why);
}

/* ---- TLS of the command line ---- */

#define TLS_NAME "default"

static void tls_ready(void *arg, struct named_credentials *named, int error, const char *why)
{
	char line[1024];
	if (error) {
		snprintf(line, sizeof(line), "TLS: %s", why);
		fail(line);
		return;
	}
	create_next();
}

static void create_tls(void)
{
	static struct tls_credentials_config config;
	config.directory = options.tls_certificates;
	config.psk_file = options.tls_psk;
	config.priority = options.tls_priority;
	config.kernel = options.tls_kernel;
	config.verify_peer = options.tls_verify_peer ? TLS_VERIFY_REQUIRE : TLS_VERIFY_NONE;
	named_credentials_create(TLS_NAME, &config, (struct named_done){tls_ready, NULL});
}

/* What the command line grants to those who come in. */
static struct access_options access_options(void)
{
	return (struct access_options){
		.tls = options.tls,
		.credentials = named_credentials_find(TLS_NAME),
	};
}

/* ---- Listeners of the command line ---- */

static void listening(void *arg, const struct listener_result *result)
{
	if (result->error) {
		char line[1024];
		snprintf(line, sizeof(line), "can not listen on %s: %s", (const char *)arg,
			 result->why);
		fail(line);
		return;
	}
	create_next();
}

static void listen_next(void)
{
	struct access_options access = access_options();
	if (next_handed < options.handed.count) {
		unsigned i = next_handed++;
		listener_adopt(options.handed.fds[i], options.handed.names[i], &access, listening,
			       "a socket that was handed over");
		return;
	}
	struct listener_options listener = {.uri = options.listen[next_listen++], .access = access};
	listener_create(&listener, listening, (void *)listener.uri);
}

static void client_gone(void)
{
	shutdown_begin(options.shutdown_timeout_ms);
}

static void tell_ready(void)
{
	static const char *const tls[] = {
		[LISTENER_TLS_OFF] = "",
		[LISTENER_TLS_ON] = ", TLS offered",
		[LISTENER_TLS_REQUIRE] = ", TLS required",
	};
	char uri[2048], size[32];
	const struct listener *listener = listener_first();
	for (unsigned i = 0; i < options.spec_count && listener; i++) {
		const struct export *export = export_find(options.specs[i].name);
		if (!export)
			continue;
		log_notice("pollux", "%s (%s%s) at %s", options.specs[i].text,
			   size_format(atomic_load(&export->bdev->size_bytes), size, sizeof(size)),
			   export->read_only ? ", read-only" : "",
			   listener_nbd_uri(listener, export->name, uri, sizeof(uri)));
	}
	if (options.stdio)
		log_info("pollux", "serving standard input and output");
	for (; listener; listener = listener_next(listener))
		log_notice("pollux", "listening on %s%s", listener_uri(listener),
			   tls[listener_access(listener)->tls]);
	if (rpc_socket_path())
		log_notice("pollux", "RPC at %s", rpc_socket_path());
}

static void create_next(void)
{
	if (shutdown_has_begun())
		return;
	if (!tls_begun && (options.tls_certificates || options.tls_psk)) {
		tls_begun = true;
		create_tls();
	} else if (next_spec < options.spec_count) {
		create_bdev(&options.specs[next_spec++]);
	} else if (next_handed < options.handed.count || next_listen < options.listen_count) {
		listen_next();
	} else {
		tell_ready();
		struct access_options access = access_options();
		if (options.stdio && stdio_client_serve(&access, client_gone))
			fail("no memory for a connection");
	}
}

/* ---- Start ---- */

/* False: so few that not even EAL could start. */
static bool raise_descriptor_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit))
		return true;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	return limit.rlim_max >= DESCRIPTORS_MIN;
}

static int start_reactors(char *why, size_t why_bytes)
{
	static struct reactor_config config;
	config.poll = options.poll;
	config.idle_poll_us = options.idle_poll_us;
	config.busy_poll_us = options.busy_poll_us;
	config.eal_args = options.eal_args;
	char reason[512];
	int error = options.cores
			    ? reactor_parse_cores(options.cores, &config, reason, sizeof(reason))
			    : reactor_default_cores(&config, reason, sizeof(reason));
	if (error)
		return why_refuse(why, why_bytes, error, "--cores: %s", reason);
	config.buffer_bytes = options.memory_bytes ? options.memory_bytes / config.core_count
						   : BUFFERS_DEFAULT_BYTES;
	config.buffer_bytes = MAX_OF(config.buffer_bytes, (uint64_t)BUFFERS_MIN_BYTES);
	error = reactors_start(&config, why, why_bytes);
	if (!error && config.busy_poll_us && !reactors[0]->busy_poll_us)
		log_warning("pollux", "--busy-poll: this kernel's io_uring does not poll network cards "
				   "(Linux 6.9 does)");
	return error;
}

static struct rpc_server *make_rpc_server(void)
{
	static struct rpc_table tables[RPC_TABLES_MAX];
	const struct rpc_table own[] = {framework_rpc, export_rpc, nbd_rpc, tls_rpc};
	unsigned count = 0;
	for (unsigned i = 0; i < COUNT_OF(own); i++)
		tables[count++] = own[i];
	for (unsigned i = 0; bdev_rpc_tables[i] && count < RPC_TABLES_MAX - 1; i++)
		tables[count++] = *bdev_rpc_tables[i];
	return rpc_server_create(tables);
}

/* What must work before anything is served. */
static int start(char *why, size_t why_bytes)
{
	int error = start_reactors(why, why_bytes);
	if (error)
		return error;
	snprintf(why, why_bytes, "no memory, or no descriptor left");
	error = control_init();
	if (!error)
		error = control_watch_add(&signals, EPOLLIN);
	if (!error)
		error = nbd_cores_start();
	if (error)
		return error;
	rpc = make_rpc_server();
	if (!rpc)
		return why_refuse(why, why_bytes, -ENOMEM, "the RPC server can not be made");
	return rpc_socket_open(rpc, options.rpc_socket, why, why_bytes);
}

int main(int argc, char **argv)
{
	char why[1024];
	switch (options_parse(argc, argv, &options)) {
	case OPTIONS_EXIT:
		return 0;
	case OPTIONS_WRONG:
		options_free(&options);
		return 1;
	case OPTIONS_RUN:
		break;
	}
	if (!raise_descriptor_limit()) {
		fprintf(stderr, "pollux: at least %d file descriptors are needed (ulimit -Hn)\n",
			DESCRIPTORS_MIN);
		return 1;
	}
	if (options.stdio && stdio_client_take(why, sizeof(why))) {
		fprintf(stderr, "pollux: --stdio: %s\n", why);
		options_free(&options);
		return 1;
	}
	framework_shutdown_timeout_ms = options.shutdown_timeout_ms;
	if (block_signals() || start(why, sizeof(why))) {
		fprintf(stderr, "pollux: %s\n", why);
		fflush(stderr);
		_exit(1);
	}
	export_end_here = nbd_end_export_here;
	create_next();
	control_run();
	rpc_socket_close();
	rpc_server_destroy(rpc);
	reactors_stop();
	nbd_cores_free();
	named_credentials_delete_all();
	control_fini();
	options_free(&options);
	return exit_status;
}
