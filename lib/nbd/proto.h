/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * proto: the NBD protocol's constants and wire structs, as big-endian types. Pure.
 * Source: NetworkBlockDevice/nbd doc/proto.md, "Values" (with structured replies, metadata contexts
 * and extended headers).
 */
#ifndef POLLUX_LIB_NBD_PROTO_H
#define POLLUX_LIB_NBD_PROTO_H

#include <stdint.h>

#include "lib/base/be.h"

#define NBD_MAGIC_INIT		   0x4e42444d41474943ull /* "NBDMAGIC" */
#define NBD_MAGIC_OPTION	   0x49484156454f5054ull /* "IHAVEOPT" */
#define NBD_MAGIC_OPTION_REPLY	   0x0003e889045565a9ull
#define NBD_MAGIC_REQUEST	   0x25609513u
#define NBD_MAGIC_EXTENDED_REQUEST 0x21e41c71u
#define NBD_MAGIC_SIMPLE_REPLY	   0x67446698u
#define NBD_MAGIC_STRUCTURED_REPLY 0x668e33efu
#define NBD_MAGIC_EXTENDED_REPLY   0x6e8a278cu

enum nbd_handshake_flags {
	NBD_FLAG_FIXED_NEWSTYLE = 1 << 0,
	NBD_FLAG_NO_ZEROES = 1 << 1,
};

enum nbd_transmission_flags {
	NBD_FLAG_HAS_FLAGS = 1 << 0,
	NBD_FLAG_READ_ONLY = 1 << 1,
	NBD_FLAG_SEND_FLUSH = 1 << 2,
	NBD_FLAG_SEND_FUA = 1 << 3,
	NBD_FLAG_ROTATIONAL = 1 << 4,
	NBD_FLAG_SEND_TRIM = 1 << 5,
	NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
	NBD_FLAG_SEND_DF = 1 << 7,
	NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
	NBD_FLAG_SEND_RESIZE = 1 << 9,
	NBD_FLAG_SEND_CACHE = 1 << 10,
	NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
	NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12,
};

enum nbd_option {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_PEEK_EXPORT = 4,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
	NBD_OPT_EXTENDED_HEADERS = 11,
};

#define NBD_REP_FLAG_ERROR (1u << 31)

enum nbd_option_reply {
	NBD_REP_ACK = 1,
	NBD_REP_SERVER = 2,
	NBD_REP_INFO = 3,
	NBD_REP_META_CONTEXT = 4,
};

/* Option errors: with NBD_REP_FLAG_ERROR. Unsigned, hence no enum. */
#define NBD_REP_ERR_UNSUP	    (NBD_REP_FLAG_ERROR | 1)
#define NBD_REP_ERR_POLICY	    (NBD_REP_FLAG_ERROR | 2)
#define NBD_REP_ERR_INVALID	    (NBD_REP_FLAG_ERROR | 3)
#define NBD_REP_ERR_PLATFORM	    (NBD_REP_FLAG_ERROR | 4)
#define NBD_REP_ERR_TLS_REQD	    (NBD_REP_FLAG_ERROR | 5)
#define NBD_REP_ERR_UNKNOWN	    (NBD_REP_FLAG_ERROR | 6)
#define NBD_REP_ERR_SHUTDOWN	    (NBD_REP_FLAG_ERROR | 7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD (NBD_REP_FLAG_ERROR | 8)
#define NBD_REP_ERR_TOO_BIG	    (NBD_REP_FLAG_ERROR | 9)
#define NBD_REP_ERR_EXT_HEADER_REQD (NBD_REP_FLAG_ERROR | 10)

enum nbd_info {
	NBD_INFO_EXPORT = 0,
	NBD_INFO_NAME = 1,
	NBD_INFO_DESCRIPTION = 2,
	NBD_INFO_BLOCK_SIZE = 3,
};

enum nbd_command {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_CACHE = 5,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
	NBD_CMD_RESIZE = 8,
};

enum nbd_command_flags {
	NBD_CMD_FLAG_FUA = 1 << 0,
	NBD_CMD_FLAG_NO_HOLE = 1 << 1,
	NBD_CMD_FLAG_DF = 1 << 2,
	NBD_CMD_FLAG_REQ_ONE = 1 << 3,
	NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
	NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5,
};

enum nbd_reply_flags { NBD_REPLY_FLAG_DONE = 1 << 0 };

enum nbd_reply_type {
	NBD_REPLY_TYPE_NONE = 0,
	NBD_REPLY_TYPE_OFFSET_DATA = 1,
	NBD_REPLY_TYPE_OFFSET_HOLE = 2,
	NBD_REPLY_TYPE_BLOCK_STATUS = 5,
	NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6,
	NBD_REPLY_TYPE_ERROR = (1 << 15) + 1,
	NBD_REPLY_TYPE_ERROR_OFFSET = (1 << 15) + 2,
};

/* Errors on the wire: fixed numbers, whatever the platform's errno. */
enum nbd_error {
	NBD_SUCCESS = 0,
	NBD_EPERM = 1,
	NBD_EIO = 5,
	NBD_ENOMEM = 12,
	NBD_EINVAL = 22,
	NBD_ENOSPC = 28,
	NBD_EOVERFLOW = 75,
	NBD_ENOTSUP = 95,
	NBD_ESHUTDOWN = 108,
};

/* base:allocation */
enum nbd_state { NBD_STATE_HOLE = 1 << 0, NBD_STATE_ZERO = 1 << 1 };

enum {
	NBD_MAX_STRING_BYTES = 4096, /* names, descriptions, error messages */
	NBD_MAX_PAYLOAD_BYTES = 64 << 20,
};

#define NBD_PACKED __attribute__((packed))

struct NBD_PACKED nbd_greeting {
	be64 magic, option_magic;
	be16 flags;
};

struct NBD_PACKED nbd_option_header {
	be64 magic;
	be32 option, length;
};

struct NBD_PACKED nbd_option_reply_header {
	be64 magic;
	be32 option, type, length;
};

struct NBD_PACKED nbd_request {
	be32 magic;
	be16 flags, type;
	be64 cookie; /* opaque: sent back as it came */
	be64 offset;
	be32 length;
};

struct NBD_PACKED nbd_extended_request {
	be32 magic;
	be16 flags, type;
	be64 cookie;
	be64 offset, length;
};

struct NBD_PACKED nbd_simple_reply {
	be32 magic, error;
	be64 cookie;
};

struct NBD_PACKED nbd_structured_reply {
	be32 magic;
	be16 flags, type;
	be64 cookie;
	be32 length;
};

struct NBD_PACKED nbd_extended_reply {
	be32 magic;
	be16 flags, type;
	be64 cookie, offset, length;
};

/* 0 or a negative errno to the number on the wire. */
uint32_t nbd_error_of(int status);

#endif
