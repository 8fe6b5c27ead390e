/* SPDX-License-Identifier: BSD-3-Clause */
/* options: parses pollux's command line and says clearly what is wrong with it. Main thread. */
#include "app/pollux/options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/pollux/nbd/core.h"
#include "lib/base/log.h"
#include "lib/base/number.h"
#include "lib/base/size.h"

static const char help[] =
	"usage: pollux [options] [[NAME=]SPEC ...]\n"
	"\n"
	"Serves memory, files and block devices over NBD from polled reactors.\n"
	"\n"
	"SPEC, what to serve; one may go without NAME and is the default export:\n"
	"  malloc:SIZE           memory, taken as it is written\n"
	"  null:SIZE             reads zeroes, drops writes\n"
	"  file:PATH[?OPTIONS]   a file or block device; OPTIONS, joined by '&':\n"
	"                        direct=auto|on|off, read-only=on|off (%3F and %25: '?' and '%')\n"
	"  nvme:ADDRESS[/nN]     a namespace of an NVMe device by its PCI address (0000:01:00.0/n1),\n"
	"                        or of the kernel's driver by its path (/dev/ng0n1)\n"
	"  PATH                  a file, without options (contains '/', or exists)\n"
	"  SIZE takes K, M, G, T. Without a SPEC pollux waits for RPC.\n"
	"\n"
	"Options:\n"
	"  -l, --listen URI      tcp://HOST:PORT, unix:///PATH or vsock://CID:PORT (CID *: any);\n"
	"                        repeatable (default tcp://127.0.0.1:10809, but for --stdio and\n"
	"                        where sockets are handed over by LISTEN_FDS)\n"
	"      --tls-certificates DIR TLS with DIR/server-cert.pem and server-key.pem\n"
	"      --tls-psk FILE    TLS with pre-shared keys, lines of identity:hexkey (psktool)\n"
	"      --tls MODE        off, on (clients may use it), require (they must: the default\n"
	"                        with one of the two above); for every listener and --stdio\n"
	"      --tls-verify-peer clients must show a certificate that DIR/ca-cert.pem has signed\n"
	"      --tls-priority STRING  ciphers and versions as a GnuTLS priority string\n"
	"      --tls-kernel      let the kernel make the records, where it can (module tls)\n"
	"  -s, --stdio           serve one client on standard input and output, then end\n"
	"  -r, --rpc-socket PATH control socket, or \"none\" (default /run/pollux.sock as root, "
	"else\n"
	"                        $XDG_RUNTIME_DIR/pollux.sock, else /tmp/pollux-UID/pollux.sock;\n"
	"                        none with --stdio and LISTEN_FDS)\n"
	"      --cores LIST      CPUs and roles: \"0\", \"0-3\", \"0:net,1:storage\"\n"
	"                        (default: every CPU of the affinity mask, both roles)\n"
	"      --poll            never sleep: for dedicated cores\n"
	"      --idle-poll US    poll this long after the last work before sleeping (default 50)\n"
	"      --busy-poll US    then let the kernel poll the network cards so long (NAPI, Linux "
	"6.9)\n"
	"      --receive WAY     auto, or single: a receive operation for each time, for "
	"comparison\n"
	"      --zerocopy-threshold SIZE  replies of so many bytes are sent without copying them:\n"
	"                        for real network cards (default 0: never)\n"
	"      --read-only       serve every SPEC read-only\n"
	"      --memory SIZE     I/O buffers of all cores together (default 64M a core)\n"
	"      --max-connections N    (default 65536)\n"
	"      --max-requests N       in flight, of one connection (default 256)\n"
	"      --handshake-timeout MS (default 10000)\n"
	"      --stall-timeout MS     a client that takes no replies while others wait for memory "
	"is\n"
	"                             cut off after this (default 10000)\n"
	"      --shutdown-timeout MS  then clients that do not take their replies are cut off\n"
	"                             (default 5000)\n"
	"      --eal \"ARGS\"      further arguments for DPDK's EAL\n"
	"      --log-level L     ERROR, WARNING, NOTICE (default), INFO, DEBUG\n"
	"      --version\n"
	"  -h, --help\n";

enum {
	OPT_CORES = 256,
	OPT_POLL,
	OPT_IDLE_POLL,
	OPT_BUSY_POLL,
	OPT_RECEIVE,
	OPT_ZEROCOPY_THRESHOLD,
	OPT_READ_ONLY,
	OPT_MEMORY,
	OPT_MAX_CONNECTIONS,
	OPT_MAX_REQUESTS,
	OPT_HANDSHAKE_TIMEOUT,
	OPT_STALL_TIMEOUT,
	OPT_SHUTDOWN_TIMEOUT,
	OPT_EAL,
	OPT_LOG_LEVEL,
	OPT_TLS_CERTIFICATES,
	OPT_TLS_PSK,
	OPT_TLS,
	OPT_TLS_VERIFY_PEER,
	OPT_TLS_PRIORITY,
	OPT_TLS_KERNEL,
	OPT_VERSION,
};

static const struct option long_options[] = {
	{"listen", required_argument, NULL, 'l'},
	{"stdio", no_argument, NULL, 's'},
	{"rpc-socket", required_argument, NULL, 'r'},
	{"cores", required_argument, NULL, OPT_CORES},
	{"poll", no_argument, NULL, OPT_POLL},
	{"idle-poll", required_argument, NULL, OPT_IDLE_POLL},
	{"busy-poll", required_argument, NULL, OPT_BUSY_POLL},
	{"receive", required_argument, NULL, OPT_RECEIVE},
	{"zerocopy-threshold", required_argument, NULL, OPT_ZEROCOPY_THRESHOLD},
	{"read-only", no_argument, NULL, OPT_READ_ONLY},
	{"memory", required_argument, NULL, OPT_MEMORY},
	{"max-connections", required_argument, NULL, OPT_MAX_CONNECTIONS},
	{"max-requests", required_argument, NULL, OPT_MAX_REQUESTS},
	{"handshake-timeout", required_argument, NULL, OPT_HANDSHAKE_TIMEOUT},
	{"stall-timeout", required_argument, NULL, OPT_STALL_TIMEOUT},
	{"shutdown-timeout", required_argument, NULL, OPT_SHUTDOWN_TIMEOUT},
	{"eal", required_argument, NULL, OPT_EAL},
	{"log-level", required_argument, NULL, OPT_LOG_LEVEL},
	{"tls-certificates", required_argument, NULL, OPT_TLS_CERTIFICATES},
	{"tls-psk", required_argument, NULL, OPT_TLS_PSK},
	{"tls", required_argument, NULL, OPT_TLS},
	{"tls-verify-peer", no_argument, NULL, OPT_TLS_VERIFY_PEER},
	{"tls-priority", required_argument, NULL, OPT_TLS_PRIORITY},
	{"tls-kernel", no_argument, NULL, OPT_TLS_KERNEL},
	{"version", no_argument, NULL, OPT_VERSION},
	{"help", no_argument, NULL, 'h'},
	{0},
};

static bool parse_number(const char *name, const char *text, uint32_t low, uint32_t high,
			 uint32_t *number)
{
	uint64_t value;
	if (number_parse(text, low, high, &value)) {
		fprintf(stderr, "pollux: --%s takes a number from %u to %u, not '%s'\n", name, low,
			high, text);
		return false;
	}
	*number = value;
	return true;
}

static bool parse_memory(const char *text, struct options *options)
{
	if (size_parse(text, &options->memory_bytes) || options->memory_bytes < 1 << 20) {
		fprintf(stderr, "pollux: --memory takes a size of 1M or more, not '%s'\n", text);
		return false;
	}
	return true;
}

static bool parse_log_level(const char *text)
{
	enum log_level level;
	if (log_level_parse(text, &level)) {
		fprintf(stderr,
			"pollux: --log-level takes ERROR, WARNING, NOTICE, INFO or DEBUG, not "
			"'%s'\n",
			text);
		return false;
	}
	log_set_level(level);
	return true;
}

static bool add_listen(struct options *options, const char *uri)
{
	if (options->listen_count == OPTIONS_LISTEN_MAX) {
		fprintf(stderr, "pollux: more than %d --listen\n", OPTIONS_LISTEN_MAX);
		return false;
	}
	options->listen[options->listen_count++] = uri;
	return true;
}

static bool parse_threshold(const char *text)
{
	if (strcmp(text, "0") && (size_parse(text, &nbd_settings.zero_copy_bytes) ||
				  nbd_settings.zero_copy_bytes > 1ull << 30)) {
		fprintf(stderr, "pollux: --zerocopy-threshold takes a size up to 1G, not '%s'\n",
			text);
		return false;
	}
	return true;
}

static bool parse_receive(const char *text)
{
	bool single = !strcmp(text, "single");
	if (!single && strcmp(text, "auto")) {
		fprintf(stderr, "pollux: --receive takes auto or single, not '%s'\n", text);
		return false;
	}
	nbd_settings.receive = single ? RECEIVE_SINGLE : RECEIVE_AUTO;
	return true;
}

enum { TLS_NOT_SAID = -1 };

static bool parse_tls(const char *text, struct options *options)
{
	static const char *const modes[] = {
		[LISTENER_TLS_OFF] = "off",
		[LISTENER_TLS_ON] = "on",
		[LISTENER_TLS_REQUIRE] = "require",
	};
	for (unsigned i = 0; i < COUNT_OF(modes); i++) {
		if (!strcmp(text, modes[i])) {
			options->tls = i;
			return true;
		}
	}
	fprintf(stderr, "pollux: --tls takes off, on or require, not '%s'\n", text);
	return false;
}

/* Options that make no sense together would leave somebody with less safety than he thinks. */
static bool check_tls(struct options *options)
{
	bool credentials = options->tls_certificates || options->tls_psk;
	const char *wrong = NULL;
	if (options->tls_certificates && options->tls_psk)
		wrong = "--tls-certificates and --tls-psk do not go together";
	else if (options->tls_verify_peer && !options->tls_certificates)
		wrong = "--tls-verify-peer needs --tls-certificates";
	else if (options->tls > LISTENER_TLS_OFF && !credentials)
		wrong = "--tls needs --tls-certificates or --tls-psk";
	else if ((options->tls_kernel || options->tls_priority) && !credentials)
		wrong = "--tls-kernel and --tls-priority need --tls-certificates or --tls-psk";
	if (wrong) {
		fprintf(stderr, "pollux: %s\n", wrong);
		return false;
	}
	if (options->tls == TLS_NOT_SAID)
		options->tls = credentials ? LISTENER_TLS_REQUIRE : LISTENER_TLS_OFF;
	return true;
}

static bool take_option(int option, const char *value, struct options *options)
{
	switch (option) {
	case 'l':
		return add_listen(options, value);
	case 's':
		options->stdio = true;
		return true;
	case 'r':
		options->rpc_socket = value;
		return true;
	case OPT_CORES:
		options->cores = value;
		return true;
	case OPT_POLL:
		options->poll = true;
		return true;
	case OPT_IDLE_POLL:
		return parse_number("idle-poll", value, 0, 1000000, &options->idle_poll_us);
	case OPT_BUSY_POLL:
		return parse_number("busy-poll", value, 0, 1000000, &options->busy_poll_us);
	case OPT_RECEIVE:
		return parse_receive(value);
	case OPT_ZEROCOPY_THRESHOLD:
		return parse_threshold(value);
	case OPT_READ_ONLY:
		options->read_only = true;
		return true;
	case OPT_MEMORY:
		return parse_memory(value, options);
	case OPT_MAX_CONNECTIONS:
		return parse_number("max-connections", value, 1, 1 << 20,
				    &nbd_settings.max_connections);
	case OPT_MAX_REQUESTS:
		return parse_number("max-requests", value, 1, REQUEST_SLOTS / 4,
				    &nbd_settings.max_requests);
	case OPT_HANDSHAKE_TIMEOUT:
		return parse_number("handshake-timeout", value, 1, 3600000,
				    &nbd_settings.handshake_timeout_ms);
	case OPT_STALL_TIMEOUT:
		return parse_number("stall-timeout", value, 1, 3600000,
				    &nbd_settings.stall_timeout_ms);
	case OPT_SHUTDOWN_TIMEOUT:
		return parse_number("shutdown-timeout", value, 1, 3600000,
				    &options->shutdown_timeout_ms);
	case OPT_EAL:
		options->eal_args = value;
		return true;
	case OPT_LOG_LEVEL:
		return parse_log_level(value);
	case OPT_TLS_CERTIFICATES:
		options->tls_certificates = value;
		return true;
	case OPT_TLS_PSK:
		options->tls_psk = value;
		return true;
	case OPT_TLS:
		return parse_tls(value, options);
	case OPT_TLS_VERIFY_PEER:
		options->tls_verify_peer = true;
		return true;
	case OPT_TLS_PRIORITY:
		options->tls_priority = value;
		return true;
	case OPT_TLS_KERNEL:
		options->tls_kernel = true;
		return true;
	default:
		return false;
	}
}

/* Names must differ: a second SPEC without a name would be a second default export. */
static bool check_names(const struct options *options)
{
	for (unsigned i = 0; i < options->spec_count; i++) {
		for (unsigned k = 0; k < i; k++) {
			const char *name = options->specs[i].name;
			if (strcmp(name, options->specs[k].name))
				continue;
			if (name[0])
				fprintf(stderr, "pollux: two exports are named '%s'\n", name);
			else
				fprintf(stderr,
					"pollux: '%s' and '%s' have no NAME=: only one can be the "
					"default export\n",
					options->specs[k].text, options->specs[i].text);
			return false;
		}
	}
	return true;
}

static bool take_specs(int count, char **texts, struct options *options)
{
	char why[512];
	options->specs = calloc(count + 1, sizeof(*options->specs));
	for (int i = 0; i < count; i++) {
		struct spec *spec = &options->specs[options->spec_count++];
		if (spec_parse(texts[i], spec, why, sizeof(why))) {
			fprintf(stderr, "pollux: %s\n", why);
			return false;
		}
		spec->read_only |= options->read_only;
	}
	return check_names(options);
}

/* How it was started, and the defaults that follow from that. */
static bool take_surroundings(struct options *options)
{
	char why[512];
	if (handed_take(&options->handed, why, sizeof(why))) {
		fprintf(stderr, "pollux: %s\n", why);
		return false;
	}
	if (options->handed.count && options->stdio) {
		/* libnbd's tools hand a socket over to whatever stands in their brackets */
		log_info("pollux", "--stdio is not used: a socket was handed over");
		options->stdio = false;
	}
	bool started_by_client = options->stdio || options->handed.count;
	if (!options->listen_count && !started_by_client)
		add_listen(options, "tcp://127.0.0.1:10809");
	if (!options->rpc_socket && started_by_client)
		options->rpc_socket = "none";
	return true;
}

enum options_result options_parse(int argc, char **argv, struct options *options)
{
	int option;
	*options = (struct options){
		.tls = TLS_NOT_SAID, .idle_poll_us = 50, .shutdown_timeout_ms = 5000};
	while ((option = getopt_long(argc, argv, "l:r:sh", long_options, NULL)) != -1) {
		if (option == 'h') {
			fputs(help, stdout);
			return OPTIONS_EXIT;
		}
		if (option == OPT_VERSION) {
			puts("pollux " POLLUX_VERSION);
			return OPTIONS_EXIT;
		}
		if (!take_option(option, optarg, options)) {
			if (option == '?')
				fputs("pollux --help tells the options\n", stderr);
			return OPTIONS_WRONG;
		}
	}
	if (!check_tls(options))
		return OPTIONS_WRONG;
	if (!take_specs(argc - optind, argv + optind, options))
		return OPTIONS_WRONG;
	return take_surroundings(options) ? OPTIONS_RUN : OPTIONS_WRONG;
}

void options_free(struct options *options)
{
	for (unsigned i = 0; i < options->spec_count; i++)
		spec_free(&options->specs[i]);
	free(options->specs);
	handed_free(&options->handed);
}
