/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * target: TLS credentials of a URI, and whether what was asked for fits what the export is. Main
 * thread, before the workers start.
 */
#include "app/perf/target.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/base/compiler.h"
#include "lib/base/size.h"
#include "lib/tls/credentials.h"

static int refuse(char *why, size_t why_bytes, const struct target *target, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static int refuse(char *why, size_t why_bytes, const struct target *target, const char *format, ...)
{
	va_list args;
	int used = snprintf(why, why_bytes, "%s: ", target->uri_text);
	va_start(args, format);
	if (used >= 0 && (size_t)used < why_bytes)
		vsnprintf(why + used, why_bytes - used, format, args);
	va_end(args);
	return -EINVAL;
}

static int make_credentials(struct target *target, const struct perf_options *options, char *why,
			    size_t why_bytes)
{
	const struct nbd_uri *uri = target->uri;
	bool from_options = options->tls_certificates || options->tls_psk;
	bool check = uri->tls_verify_peer && !options->tls_no_verify;
	struct tls_credentials_config config = {
		.endpoint = TLS_CLIENT,
		.directory = from_options ? options->tls_certificates : uri->tls_certificates,
		.psk_file = from_options ? options->tls_psk : uri->tls_psk_file,
	};
	struct tls_report report = {0};
	if (uri->tls_type && !strcmp(uri->tls_type, "anon"))
		return refuse(why, why_bytes, target, "TLS without authentication is not offered");
	/* a URI may name both: its type, or else the certificates, decide */
	if (config.psk_file && config.directory && uri->tls_type && !strcmp(uri->tls_type, "psk"))
		config.directory = NULL;
	else if (config.directory)
		config.psk_file = NULL;
	if (config.psk_file)
		config.psk_identity =
			options->tls_username ? options->tls_username : uri->tls_username;
	else
		config.verify_peer = check ? TLS_VERIFY_REQUIRE : TLS_VERIFY_NONE;
	if (!config.psk_file && !config.directory && check)
		return refuse(why, why_bytes, target,
			      "TLS needs --tls-certificates DIR or --tls-psk FILE (or "
			      "tls-certificates, tls-psk-file in the URI), or --tls-no-verify");
	int rc = tls_credentials_create(&config, &target->credentials, &report);
	if (rc)
		refuse(why, why_bytes, target, "%s", report.error);
	else if (check && !config.psk_file)
		target->tls_hostname = options->tls_hostname ? options->tls_hostname
				       : uri->tls_hostname   ? uri->tls_hostname
							     : uri->host;
	return rc;
}

/* By its scheme, or because there is something to set up TLS with: never by chance in the clear. */
static bool wants_tls(const struct nbd_uri *uri, const struct perf_options *options)
{
	return uri->tls || uri->tls_certificates || uri->tls_psk_file || uri->tls_hostname ||
	       !uri->tls_verify_peer || options->tls_certificates || options->tls_psk ||
	       options->tls_username || options->tls_hostname || options->tls_no_verify;
}

int target_init(struct target *target, const struct perf_options *options, unsigned index,
		char *why, size_t why_bytes)
{
	*target = (struct target){
		.uri_text = options->uri_texts[index],
		.uri = &options->uris[index],
	};
	bool tls = wants_tls(target->uri, options);
	if (options->discard && tls)
		return refuse(why, why_bytes, target,
			      "--discard is not for TLS, where every byte is decrypted");
	if (options->discard && !target->uri->host)
		return refuse(why, why_bytes, target,
			      "--discard is for TCP: other sockets do not drop payload");
	return tls ? make_credentials(target, options, why, why_bytes) : 0;
}

void target_fini(struct target *target)
{
	tls_credentials_put(target->credentials);
	verify_table_fini(&target->verify);
}

/* ---- Twins ---- */

static bool same_socket(const struct nbd_uri *a, const struct nbd_uri *b)
{
	struct stat one, two;
	if (a->socket_length == b->socket_length && !memcmp(a->socket, b->socket, a->socket_length))
		return true;
	return a->socket[0] && b->socket[0] && !stat(a->socket, &one) && !stat(b->socket, &two) &&
	       one.st_dev == two.st_dev && one.st_ino == two.st_ino;
}

static bool same_server(const struct target *a, const struct target *b)
{
	if (a->uri->socket || b->uri->socket)
		return a->uri->socket && b->uri->socket && same_socket(a->uri, b->uri);
	return a->peer_bytes == b->peer_bytes && !memcmp(&a->peer, &b->peer, a->peer_bytes);
}

int target_meet(struct target *targets, unsigned index, int fd, char *why, size_t why_bytes)
{
	struct target *target = &targets[index];
	target->peer_bytes = sizeof(target->peer);
	if (getpeername(fd, (struct sockaddr *)&target->peer, &target->peer_bytes))
		target->peer_bytes = 0;
	for (unsigned i = 0; i < index; i++)
		if (!strcmp(targets[i].uri->export_name, target->uri->export_name) &&
		    same_server(&targets[i], target))
			return refuse(
				why, why_bytes, target,
				"it is the export of %s, and --verify must write to each only "
				"once (--connections N makes more connections)",
				targets[i].uri_text);
	return 0;
}

/* ---- What the export is, and what was asked for ---- */

/* What the server cannot do, or does not allow. */
static const char *missing(const struct target *target, const struct perf_options *options)
{
	bool writes = options->read_percent < 100;
	if (writes && target->flags & NBD_FLAG_READ_ONLY)
		return "the export is read-only";
	if (options->fua && !(target->flags & NBD_FLAG_SEND_FUA))
		return "the server does not know FUA";
	if (options->flush_every && !(target->flags & NBD_FLAG_SEND_FLUSH))
		return "the server does not know FLUSH";
	if (options->mode == NBD_MODE_STRUCTURED && target->mode != NBD_MODE_STRUCTURED)
		return "the server does not know structured replies";
	if (options->mode == NBD_MODE_EXTENDED && target->mode != NBD_MODE_EXTENDED)
		return "the server does not know extended headers";
	return NULL;
}

static int check_blocks(const struct target *target, const struct perf_options *options, char *why,
			size_t why_bytes)
{
	char size[32], least[32];
	if (options->block_bytes % target->min_block)
		return refuse(why, why_bytes, target,
			      "--bs %s is not a multiple of the export's minimum block size, %s",
			      size_format(options->block_bytes, size, sizeof(size)),
			      size_format(target->min_block, least, sizeof(least)));
	if (options->offset % target->min_block)
		return refuse(why, why_bytes, target,
			      "--offset %s is not a multiple of the export's minimum block size, "
			      "%s",
			      size_format(options->offset, size, sizeof(size)),
			      size_format(target->min_block, least, sizeof(least)));
	if (options->block_bytes > target->max_payload)
		return refuse(why, why_bytes, target,
			      "--bs %s is more than the largest request that the server takes, %s",
			      size_format(options->block_bytes, size, sizeof(size)),
			      size_format(target->max_payload, least, sizeof(least)));
	return 0;
}

static int check_region(struct target *target, const struct perf_options *options, char *why,
			size_t why_bytes)
{
	uint64_t size = options->size;
	char text[32];
	size_format(target->size, text, sizeof(text));
	if (options->offset >= target->size)
		return refuse(why, why_bytes, target, "--offset is beyond the export's end (%s)",
			      text);
	if (!size)
		size = target->size - options->offset;
	if (size > target->size - options->offset)
		return refuse(why, why_bytes, target,
			      "--offset and --size go beyond the export's end (%s)", text);
	target->offset = options->offset;
	target->blocks = size / options->block_bytes;
	if (!target->blocks)
		return refuse(why, why_bytes, target,
			      "there is no room for a single block of --bs in %s",
			      size_format(size, text, sizeof(text)));
	/* slices are disjoint, and so are the requests within one */
	if (options->verify && target->blocks / options->connections < (uint64_t)options->depth)
		return refuse(why, why_bytes, target,
			      "--verify needs at least --connections times --iodepth blocks, and "
			      "there are %" PRIu64,
			      target->blocks);
	if (!options->random && target->blocks < options->connections)
		return refuse(why, why_bytes, target,
			      "there are fewer blocks (%" PRIu64 ") than connections",
			      target->blocks);
	return 0;
}

static int make_table(struct target *target, const struct perf_options *options, char *why,
		      size_t why_bytes)
{
	bool only_reads = options->read_percent == 100;
	struct verify_table *table = &target->verify;
	if (verify_table_init(table, target->offset, target->blocks, options->block_bytes)) {
		refuse(why, why_bytes, target, "no memory to keep track of %" PRIu64 " blocks",
		       target->blocks);
		return -ENOMEM;
	}
	table->seed = options->seed;
	table->first_run = (uint32_t)options->nonce;
	table->runs = options->uri_count;
	table->run = table->first_run + (uint32_t)(target->uri - options->uris);
	table->any_seed = only_reads && !options->seed_given;
	table->any_run = only_reads;
	table->judge_unknown = only_reads && !options->verify_state;
	if (!options->verify_state)
		return 0;
	int rc = verify_load(table, options->verify_state, why, why_bytes);
	if (rc == -ENOENT && !only_reads)
		return 0;
	if (!rc && options->seed_given && table->seed != options->seed)
		return refuse(why, why_bytes, target,
			      "--seed is not that of the --verify-state file, %" PRIu64,
			      table->seed);
	return rc;
}

int target_take(struct target *target, const struct perf_options *options, unsigned number,
		const struct nbd_client *client, char *why, size_t why_bytes)
{
	const char *wrong;
	int rc;
	if (number) {
		if (client->size == target->size && client->mode == target->mode)
			return 0;
		return refuse(why, why_bytes, target,
			      "connection %u was told another size or protocol than the first",
			      number);
	}
	target->size = client->size;
	target->flags = client->flags;
	target->mode = client->mode;
	target->min_block = client->min_block;
	target->max_payload = client->max_payload;
	wrong = missing(target, options);
	if (wrong)
		return refuse(why, why_bytes, target, "%s", wrong);
	rc = check_blocks(target, options, why, why_bytes);
	if (!rc)
		rc = check_region(target, options, why, why_bytes);
	if (!rc && options->verify)
		rc = make_table(target, options, why, why_bytes);
	return rc;
}
