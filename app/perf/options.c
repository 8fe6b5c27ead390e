/* SPDX-License-Identifier: BSD-3-Clause */
/* options: parses pollux-perf's command line and says clearly what is wrong with it. Main thread.
 */
#include "app/perf/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/perf/help.h"
#include "lib/base/compiler.h"
#include "lib/base/number.h"
#include "lib/base/size.h"

enum {
	OPT_RW = 256,
	OPT_MIX,
	OPT_BS,
	OPT_IODEPTH,
	OPT_CONNECTIONS,
	OPT_TIME,
	OPT_WARMUP,
	OPT_REQUESTS,
	OPT_CORES,
	OPT_SIZE,
	OPT_OFFSET,
	OPT_RATE,
	OPT_VERIFY,
	OPT_VERIFY_STATE,
	OPT_SEED,
	OPT_FUA,
	OPT_FLUSH_EVERY,
	OPT_DISCARD,
	OPT_STRUCTURED,
	OPT_EXTENDED,
	OPT_TLS_CERTIFICATES,
	OPT_TLS_PSK,
	OPT_TLS_USERNAME,
	OPT_TLS_HOSTNAME,
	OPT_TLS_NO_VERIFY,
	OPT_JSON,
	OPT_HTML,
	OPT_TIMEOUT,
	OPT_POLL,
	OPT_IDLE_POLL,
	OPT_QUIET,
	OPT_VERSION,
};

static const struct option long_options[] = {
	{"rw", required_argument, NULL, OPT_RW},
	{"mix", required_argument, NULL, OPT_MIX},
	{"bs", required_argument, NULL, OPT_BS},
	{"iodepth", required_argument, NULL, OPT_IODEPTH},
	{"connections", required_argument, NULL, OPT_CONNECTIONS},
	{"time", required_argument, NULL, OPT_TIME},
	{"warmup", required_argument, NULL, OPT_WARMUP},
	{"requests", required_argument, NULL, OPT_REQUESTS},
	{"cores", required_argument, NULL, OPT_CORES},
	{"size", required_argument, NULL, OPT_SIZE},
	{"offset", required_argument, NULL, OPT_OFFSET},
	{"rate", required_argument, NULL, OPT_RATE},
	{"verify", no_argument, NULL, OPT_VERIFY},
	{"verify-state", required_argument, NULL, OPT_VERIFY_STATE},
	{"seed", required_argument, NULL, OPT_SEED},
	{"fua", no_argument, NULL, OPT_FUA},
	{"flush-every", required_argument, NULL, OPT_FLUSH_EVERY},
	{"discard", no_argument, NULL, OPT_DISCARD},
	{"structured", no_argument, NULL, OPT_STRUCTURED},
	{"extended", no_argument, NULL, OPT_EXTENDED},
	{"tls-certificates", required_argument, NULL, OPT_TLS_CERTIFICATES},
	{"tls-psk", required_argument, NULL, OPT_TLS_PSK},
	{"tls-username", required_argument, NULL, OPT_TLS_USERNAME},
	{"tls-hostname", required_argument, NULL, OPT_TLS_HOSTNAME},
	{"tls-no-verify", no_argument, NULL, OPT_TLS_NO_VERIFY},
	{"json", optional_argument, NULL, OPT_JSON},
	{"html", required_argument, NULL, OPT_HTML},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"poll", no_argument, NULL, OPT_POLL},
	{"idle-poll", required_argument, NULL, OPT_IDLE_POLL},
	{"quiet", no_argument, NULL, OPT_QUIET},
	{"version", no_argument, NULL, OPT_VERSION},
	{"help", no_argument, NULL, 'h'},
	{0},
};

/* What parsing works on. */
struct parse {
	struct perf_options *options;
	char *why;
	size_t why_bytes;
	bool mix_given;
};

static bool complain(struct parse *parse, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static bool complain(struct parse *parse, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(parse->why, parse->why_bytes, format, args);
	va_end(args);
	return false;
}

/* ---- Kinds of values ---- */

int perf_duration_parse(const char *text, uint64_t *ns)
{
	static const struct {
		const char *suffix;
		double ns;
	} units[] = {{"", 1e9}, {"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"m", 60e9}, {"h", 3600e9}};
	char *end;
	if ((*text < '0' || *text > '9') && *text != '.')
		return -EINVAL;
	double value = strtod(text, &end);
	/* strtod knows more ways to write numbers than people expect here */
	if (end == text || strcspn(text, "xXeEpP") < (size_t)(end - text))
		return -EINVAL;
	for (size_t i = 0; i < COUNT_OF(units); i++) {
		if (strcmp(end, units[i].suffix) != 0)
			continue;
		value *= units[i].ns;
		if (value > 366.0 * 86400e9)
			return -ERANGE;
		*ns = (uint64_t)llround(value);
		/* 0 has a meaning of its own */
		return value > 0 && !*ns ? -ERANGE : 0;
	}
	return -EINVAL;
}

int perf_cpus_parse(const char *text, unsigned cpus[PERF_CPUS_MAX])
{
	unsigned count = 0;
	uint64_t first, last;
	for (;;) {
		if (number_range_parse(&text, &first, &last) || last > PERF_CPU_NUMBER_MAX)
			return -EINVAL;
		for (unsigned cpu = first; cpu <= last; cpu++) {
			for (unsigned i = 0; i < count; i++)
				if (cpus[i] == cpu)
					return -EINVAL;
			if (count == PERF_CPUS_MAX)
				return -EINVAL;
			cpus[count++] = cpu;
		}
		if (!*text)
			return count;
		if (*text++ != ',')
			return -EINVAL;
	}
}

static bool take_number(struct parse *parse, const char *name, const char *text, uint64_t low,
			uint64_t high, uint64_t *number)
{
	if (number_parse(text, low, high, number))
		return complain(parse, "--%s takes a number from %llu to %llu, not '%s'", name,
				(unsigned long long)low, (unsigned long long)high, text);
	return true;
}

static bool take_unsigned(struct parse *parse, const char *name, const char *text, unsigned low,
			  unsigned high, unsigned *number)
{
	uint64_t value = 0;
	if (!take_number(parse, name, text, low, high, &value))
		return false;
	*number = value;
	return true;
}

static bool take_size(struct parse *parse, const char *name, const char *text, uint64_t low,
		      uint64_t high, uint64_t *size)
{
	char least[32], most[32];
	if (!size_parse(text, size) && *size >= low && *size <= high)
		return true;
	return complain(parse, "--%s takes a size from %s to %s (K, M, G, T), not '%s'", name,
			size_format(low, least, sizeof(least)),
			size_format(high, most, sizeof(most)), text);
}

static bool take_block(struct parse *parse, const char *text)
{
	uint64_t bytes;
	if (!take_size(parse, "bs", text, 1, PERF_BLOCK_MAX_BYTES, &bytes))
		return false;
	parse->options->block_bytes = bytes;
	return true;
}

static bool take_duration(struct parse *parse, const char *name, const char *text, uint64_t *ns)
{
	if (!perf_duration_parse(text, ns))
		return true;
	return complain(parse, "--%s takes a time such as 10, 0.5, 500ms or 2m, not '%s'", name,
			text);
}

/* Requests a second: a number, or thousands (k) or millions (m) of them. */
static bool take_rate(struct parse *parse, const char *text)
{
	char *end;
	double value = strtod(text, &end);
	if (*end == 'k' || *end == 'K')
		value *= 1e3, end++;
	else if (*end == 'm' || *end == 'M')
		value *= 1e6, end++;
	if (*text < '0' || *text > '9' || strpbrk(text, "xX") || *end || value < 1 || value > 1e9)
		return complain(parse,
				"--rate takes requests a second, such as 5000 or 20k, not '%s'",
				text);
	parse->options->rate = (uint64_t)llround(value);
	return true;
}

static bool take_rw(struct parse *parse, const char *text)
{
	static const struct {
		const char *name;
		bool random;
		unsigned read_percent;
	} table[] = {
		{"read", false, 100},	 {"write", false, 0},	 {"rw", false, 50},
		{"randread", true, 100}, {"randwrite", true, 0}, {"randrw", true, 50},
	};
	for (size_t i = 0; i < COUNT_OF(table); i++) {
		if (strcmp(text, table[i].name) != 0)
			continue;
		parse->options->rw = table[i].name;
		parse->options->random = table[i].random;
		parse->options->read_percent = table[i].read_percent;
		return true;
	}
	return complain(
		parse, "--rw takes read, write, randread, randwrite, rw or randrw, not '%s'", text);
}

static bool take_cores(struct parse *parse, const char *text)
{
	int count = perf_cpus_parse(text, parse->options->cpus);
	if (count < 0)
		return complain(parse, "--cores takes CPUs such as 1 or 0-2,5, not '%s'", text);
	parse->options->cpu_count = count;
	return true;
}

static bool take_mode(struct parse *parse, enum nbd_mode mode)
{
	if (parse->options->mode != NBD_MODE_SIMPLE && parse->options->mode != mode)
		return complain(parse, "--structured and --extended do not go together");
	parse->options->mode = mode;
	return true;
}

/* ---- Options ---- */

/* Those that tell how the run goes. */
static bool take_load(struct parse *parse, int option, const char *value)
{
	struct perf_options *options = parse->options;
	switch (option) {
	case OPT_RW:
		return take_rw(parse, value);
	case OPT_BS:
		return take_block(parse, value);
	case OPT_IODEPTH:
		return take_unsigned(parse, "iodepth", value, 1, PERF_DEPTH_MAX, &options->depth);
	case OPT_CONNECTIONS:
		return take_unsigned(parse, "connections", value, 1, PERF_CONNECTIONS_MAX,
				     &options->connections);
	case OPT_TIME:
		return take_duration(parse, "time", value, &options->time_ns);
	case OPT_WARMUP:
		return take_duration(parse, "warmup", value, &options->warmup_ns);
	case OPT_REQUESTS:
		return take_number(parse, "requests", value, 1, 1ull << 62, &options->requests);
	case OPT_CORES:
		return take_cores(parse, value);
	case OPT_SIZE:
		return take_size(parse, "size", value, 1, INT64_MAX, &options->size);
	case OPT_OFFSET:
		return take_size(parse, "offset", value, 0, INT64_MAX, &options->offset);
	case OPT_RATE:
		return take_rate(parse, value);
	case OPT_SEED:
		options->seed_given = true;
		return take_number(parse, "seed", value, 0, PERF_SEED_MAX, &options->seed);
	case OPT_FLUSH_EVERY:
		return take_unsigned(parse, "flush-every", value, 1, 1u << 30,
				     &options->flush_every);
	case OPT_TIMEOUT:
		return take_duration(parse, "timeout", value, &options->timeout_ns);
	default: /* OPT_IDLE_POLL */
		return take_unsigned(parse, "idle-poll", value, 0, 1000000, &options->idle_poll_us);
	}
}

static bool take_option(struct parse *parse, int option, const char *value)
{
	struct perf_options *options = parse->options;
	switch (option) {
	case OPT_MIX:
		/* kept apart from --rw, whose place on the command line must not matter */
		parse->mix_given = true;
		return true;
	case OPT_VERIFY_STATE:
		options->verify_state = value;
		options->verify = true;
		return true;
	case OPT_VERIFY:
		return options->verify = true;
	case OPT_FUA:
		return options->fua = true;
	case OPT_DISCARD:
		return options->discard = true;
	case OPT_STRUCTURED:
		return take_mode(parse, NBD_MODE_STRUCTURED);
	case OPT_EXTENDED:
		return take_mode(parse, NBD_MODE_EXTENDED);
	case OPT_TLS_CERTIFICATES:
		options->tls_certificates = value;
		return true;
	case OPT_TLS_PSK:
		options->tls_psk = value;
		return true;
	case OPT_TLS_USERNAME:
		options->tls_username = value;
		return true;
	case OPT_TLS_HOSTNAME:
		options->tls_hostname = value;
		return true;
	case OPT_TLS_NO_VERIFY:
		return options->tls_no_verify = true;
	case OPT_JSON:
		options->json = true;
		options->json_file = value;
		return true;
	case OPT_HTML:
		options->html_file = value;
		return true;
	case OPT_POLL:
		return options->poll = true;
	case OPT_QUIET:
		return options->quiet = true;
	default:
		return take_load(parse, option, value);
	}
}

/* Options that do not go together. */
static bool check(struct parse *parse)
{
	const struct perf_options *options = parse->options;
	const struct {
		bool wrong;
		const char *why;
	} rules[] = {
		{parse->mix_given && (options->read_percent == 100 || options->read_percent == 0),
		 "--mix is for --rw rw and randrw"},
		{options->tls_certificates && options->tls_psk,
		 "--tls-certificates and --tls-psk do not go together"},
		{options->fua && options->read_percent == 100, "--fua is for writes"},
		{options->flush_every && options->read_percent == 100,
		 "--flush-every is for writes"},
		{options->discard && options->read_percent != 100,
		 "--discard is for --rw read and randread"},
		{options->discard && options->verify,
		 "--discard throws away what --verify wants to see"},
		{options->discard && options->mode != NBD_MODE_SIMPLE,
		 "--discard needs replies of a known length: not with --structured or --extended"},
		{options->verify && options->block_bytes % 512,
		 "--verify needs a --bs that is a multiple of 512"},
		{options->verify_state && options->uri_count > 1, "--verify-state is for one URI"},
		{!options->timeout_ns, "--timeout must be longer than 0"},
		{options->json_file && !*options->json_file, "--json= needs the name of a file"},
		{options->html_file && !*options->html_file, "--html needs the name of a file"},
		{options->verify_state && !*options->verify_state,
		 "--verify-state needs the name of a file"},
	};
	for (size_t i = 0; i < COUNT_OF(rules); i++)
		if (rules[i].wrong)
			return complain(parse, "%s", rules[i].why);
	return true;
}

static bool take_uris(struct parse *parse, int count, char **texts)
{
	struct perf_options *options = parse->options;
	char error[PERF_WHY_BYTES / 2];
	if (!count)
		return complain(parse, "an NBD URI is missing, such as nbd://127.0.0.1/EXPORT");
	for (int i = 0; i < count; i++) {
		if (options->uri_count == PERF_URIS_MAX)
			return complain(parse, "more than %d URIs", PERF_URIS_MAX);
		if (nbd_uri_parse(texts[i], &options->uris[options->uri_count], error,
				  sizeof(error)))
			return complain(parse, "%.128s: %s", texts[i], error);
		options->uri_texts[options->uri_count++] = texts[i];
	}
	return true;
}

enum perf_options_result perf_options_parse(int argc, char **argv, struct perf_options *options,
					    char *why, size_t why_bytes)
{
	struct parse parse = {.options = options, .why = why, .why_bytes = why_bytes};
	const char *mix = NULL;
	uint64_t never = 0;
	int option;
	*options = (struct perf_options){
		.rw = "randread",
		.random = true,
		.read_percent = 100,
		.block_bytes = 4096,
		.depth = 32,
		.connections = 1,
		.time_ns = UINT64_MAX,
		.timeout_ns = 30ull * 1000000000,
		.idle_poll_us = PERF_IDLE_POLL_US,
	};
	optind = 0;
	opterr = 0;
	while ((option = getopt_long(argc, argv, ":h", long_options, NULL)) != -1) {
		if (option == 'h' || option == OPT_VERSION) {
			fputs(option == 'h' ? perf_help : "pollux-perf " PERF_VERSION "\n", stdout);
			return PERF_OPTIONS_EXIT;
		}
		if (option == ':' || option == '?') {
			complain(&parse,
				 option == ':' ? "%s needs a value"
					       : "%s is no option (see --help)",
				 argv[optind - 1]);
			return PERF_OPTIONS_WRONG;
		}
		if (option == OPT_MIX)
			mix = optarg;
		if (!take_option(&parse, option, optarg))
			return PERF_OPTIONS_WRONG;
	}
	/* without a limit in requests there is one in time */
	if (options->time_ns == UINT64_MAX)
		options->time_ns = options->requests ? never : 10ull * 1000000000;
	if (!take_uris(&parse, argc - optind, argv + optind) || !check(&parse))
		return PERF_OPTIONS_WRONG;
	if (mix && !take_unsigned(&parse, "mix", mix, 0, 100, &options->read_percent))
		return PERF_OPTIONS_WRONG;
	return PERF_OPTIONS_RUN;
}

void perf_options_free(struct perf_options *options)
{
	for (unsigned i = 0; i < options->uri_count; i++)
		nbd_uri_free(&options->uris[i]);
	options->uri_count = 0;
}
