/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * request: the rules of every command, for requests that are not plain (nbd_request_is_plain()).
 * Pure; any thread. One table tells which flags a command may carry and which
 * transmission flag must have exposed it; the order of the checks is the order in which a client
 * would want to know: what it asked, whether it may, how it asked, where.
 */
#include "lib/nbd/request.h"

enum {
	/* an effect length, and one id for each context that can have been selected */
	MAX_FILTER_BYTES = 8 + 4 * NBD_MAX_CONTEXTS,
};

struct command_rule {
	uint16_t flags;	  /* allowed; FUA and PAYLOAD_LEN are judged apart */
	uint16_t exposed; /* the transmission flag without which the command does not exist */
	uint8_t past_end; /* the error beyond the export's end */
	bool writes;
};

static const struct command_rule rules[] = {
	[NBD_CMD_READ] = {.flags = NBD_CMD_FLAG_DF, .past_end = NBD_EINVAL},
	[NBD_CMD_WRITE] = {.past_end = NBD_ENOSPC, .writes = true},
	[NBD_CMD_DISC] = {0},
	[NBD_CMD_FLUSH] = {.exposed = NBD_FLAG_SEND_FLUSH, .past_end = NBD_EINVAL},
	[NBD_CMD_TRIM] = {.exposed = NBD_FLAG_SEND_TRIM, .past_end = NBD_EINVAL, .writes = true},
	[NBD_CMD_CACHE] = {.exposed = NBD_FLAG_SEND_CACHE, .past_end = NBD_EINVAL},
	[NBD_CMD_WRITE_ZEROES] = {.flags = NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
				  .exposed = NBD_FLAG_SEND_WRITE_ZEROES,
				  .past_end = NBD_ENOSPC,
				  .writes = true},
	[NBD_CMD_BLOCK_STATUS] = {.flags = NBD_CMD_FLAG_REQ_ONE, .past_end = NBD_EINVAL},
};

static uint32_t refuse(const char **message, uint32_t error, const char *sentence)
{
	*message = sentence;
	return error;
}

/* Whether so long a payload can not be read and dropped. */
static bool payload_is_fatal(const struct nbd_command_request *request,
			     const struct nbd_limits *limits)
{
	uint64_t bound = (uint64_t)limits->max_payload + NBD_MAX_DRAIN_BYTES;

	/* with extended headers the document wants the connection closed beyond the limit */
	if (limits->mode == NBD_MODE_EXTENDED)
		bound = MAX_OF(limits->max_payload, (uint32_t)NBD_PORTABLE_PAYLOAD_BYTES);
	return request->payload > bound;
}

/* The flags of the request that the command may not carry here. */
static uint16_t flags_refused(const struct nbd_command_request *request,
			      const struct nbd_limits *limits)
{
	uint16_t offered = limits->transmission_flags;
	uint16_t allowed = rules[request->type].flags;

	if (!(offered & NBD_FLAG_SEND_DF))
		allowed &= ~NBD_CMD_FLAG_DF;
	if (!(offered & NBD_FLAG_SEND_FAST_ZERO))
		allowed &= ~NBD_CMD_FLAG_FAST_ZERO;
	/* once exposed, FUA must be accepted with any command */
	if (offered & NBD_FLAG_SEND_FUA)
		allowed |= NBD_CMD_FLAG_FUA;
	if (limits->mode == NBD_MODE_EXTENDED &&
	    (request->type == NBD_CMD_WRITE ||
	     (request->type == NBD_CMD_BLOCK_STATUS && offered & NBD_FLAG_BLOCK_STATUS_PAYLOAD)))
		allowed |= NBD_CMD_FLAG_PAYLOAD_LEN;
	return request->flags & ~allowed;
}

/* Whether the command exists for this client. */
static uint32_t check_command(const struct nbd_command_request *request,
			      const struct nbd_limits *limits, const char **message)
{
	const struct command_rule *rule;

	if (request->type >= COUNT_OF(rules))
		return refuse(message, NBD_EINVAL, "unknown command");
	rule = &rules[request->type];
	if (rule->writes && limits->transmission_flags & NBD_FLAG_READ_ONLY)
		return refuse(message, NBD_EPERM, "the export is read-only");
	if (rule->exposed && !(limits->transmission_flags & rule->exposed))
		return refuse(message, NBD_EINVAL, "the export does not offer this command");
	if (request->type == NBD_CMD_BLOCK_STATUS &&
	    (!limits->contexts || limits->mode == NBD_MODE_SIMPLE))
		return refuse(message, NBD_EINVAL, "no metadata context was negotiated");
	if (flags_refused(request, limits))
		return refuse(message, NBD_EINVAL, "a command flag is unknown or not valid here");
	return NBD_SUCCESS;
}

uint32_t nbd_request_error(uint16_t type, uint16_t flags, int status)
{
	uint32_t error = nbd_error_of(status);

	if (error == NBD_ENOTSUP &&
	    !(type == NBD_CMD_WRITE_ZEROES && flags & NBD_CMD_FLAG_FAST_ZERO))
		return NBD_EINVAL;
	if (error == NBD_EOVERFLOW && !(type == NBD_CMD_READ && flags & NBD_CMD_FLAG_DF))
		return NBD_EIO;
	return error;
}

uint32_t nbd_request_past_end(const struct nbd_command_request *request)
{
	return rules[request->type].past_end;
}

/* Whether the length may be dealt with in one request. The range is known to lie in the export. */
static uint32_t check_amount(const struct nbd_command_request *request,
			     const struct nbd_limits *limits, const char **message)
{
	if (request->length <= limits->max_payload)
		return NBD_SUCCESS;
	if (request->type == NBD_CMD_WRITE)
		return refuse(message, NBD_EINVAL, "the payload exceeds the maximum");
	/* a client with simple replies does not know EOVERFLOW */
	if (request->type == NBD_CMD_READ)
		return refuse(message, limits->mode == NBD_MODE_SIMPLE ? NBD_EINVAL : NBD_EOVERFLOW,
			      "the length to read exceeds the maximum payload");
	return NBD_SUCCESS;
}

/* Whether the range may be acted on. */
static uint32_t check_range(const struct nbd_command_request *request,
			    const struct nbd_limits *limits, const char **message)
{
	if (request->type == NBD_CMD_FLUSH) {
		if (request->offset || request->length)
			return refuse(message, NBD_EINVAL,
				      "offset and length of a flush must be zero");
		return NBD_SUCCESS;
	}
	if (!request->length)
		return refuse(message, NBD_EINVAL, "the length is zero");
	if (request->offset > limits->size || request->length > limits->size - request->offset)
		return refuse(message, nbd_request_past_end(request),
			      "the range exceeds the export");
	if ((request->offset | request->length) & limits->block_mask)
		return refuse(message, NBD_EINVAL,
			      "the range is not aligned to the minimum block size");
	return check_amount(request, limits, message);
}

uint32_t nbd_request_check(const struct nbd_command_request *request,
			   const struct nbd_limits *limits, bool *fatal, const char **message)
{
	uint32_t error;

	*fatal = false;
	if (request->type == NBD_CMD_DISC)
		return NBD_SUCCESS;
	*fatal = payload_is_fatal(request, limits);
	error = check_command(request, limits, message);
	if (error)
		return error;
	if (limits->mode == NBD_MODE_EXTENDED) {
		bool payload = request->flags & NBD_CMD_FLAG_PAYLOAD_LEN;

		if (request->type == NBD_CMD_WRITE && !payload)
			return refuse(message, NBD_EINVAL, "a write without a payload");
		if (request->type == NBD_CMD_BLOCK_STATUS && payload) {
			if (request->payload < 12 || request->payload > MAX_FILTER_BYTES ||
			    request->payload % 4)
				return refuse(message, NBD_EINVAL,
					      "the payload is not a list of context ids");
			return NBD_SUCCESS;
		}
	}
	return check_range(request, limits, message);
}
