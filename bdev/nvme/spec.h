/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * spec: what NVMe puts on the wire: commands, completions, registers, the identify structures, as
 * far as this driver uses them. All numbers are little-endian, as on the machines that Pollux runs
 * on. Source: NVM Express Base Specification 2.0 (sections are named), NVM Command Set
 * Specification 1.0, NVMe over PCIe Transport Specification 1.0. Pure.
 */
#ifndef POLLUX_BDEV_NVME_SPEC_H
#define POLLUX_BDEV_NVME_SPEC_H

#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "structures are used as they come");

/* Admin opcodes, Base 5. */
enum nvme_admin_opcode {
	NVME_ADMIN_DELETE_SQ = 0x00,
	NVME_ADMIN_CREATE_SQ = 0x01,
	NVME_ADMIN_GET_LOG_PAGE = 0x02,
	NVME_ADMIN_DELETE_CQ = 0x04,
	NVME_ADMIN_CREATE_CQ = 0x05,
	NVME_ADMIN_IDENTIFY = 0x06,
	NVME_ADMIN_ABORT = 0x08,
	NVME_ADMIN_SET_FEATURES = 0x09,
	NVME_ADMIN_ASYNC_EVENT = 0x0c,
	NVME_ADMIN_DOORBELL_BUFFER = 0x7c,
};

/* NVM Command Set 3. */
enum nvme_opcode {
	NVME_FLUSH = 0x00,
	NVME_WRITE = 0x01,
	NVME_READ = 0x02,
	NVME_WRITE_ZEROES = 0x08,
	NVME_DSM = 0x09,
};

enum {
	NVME_ALL_NAMESPACES = 0xffffffff,
	NVME_SQE_BYTES = 64,
	NVME_CQE_BYTES = 16,
	NVME_IDENTIFY_BYTES = 4096,
	NVME_PAGE_BYTES = 4096, /* of this driver's PRPs: CC.MPS 0 */
	NVME_COMMAND_BLOCKS_MAX = 1 << 16, /* of READ, WRITE, WRITE ZEROES: NLB is 16 bits, 0's based */
};

/* Base 4.1.2: a descriptor of a scatter gather list. */
struct nvme_sgl {
	uint64_t address;
	uint32_t bytes;
	uint8_t reserved[3];
	uint8_t type; /* enum nvme_sgl_type */
};
_Static_assert(sizeof(struct nvme_sgl) == 16, "as on the wire");

/* 7:4 the type, 3:0 0: the address is one of memory. */
enum nvme_sgl_type {
	NVME_SGL_DATA = 0x00,	      /* a segment of the payload */
	NVME_SGL_LAST_SEGMENT = 0x30, /* where the list stands, all of it */
};

/* Base 3.3.3: a submission queue entry. */
struct nvme_sqe {
	uint8_t opcode;
	uint8_t flags; /* 7:6 PSDT: 0 PRPs, NVME_SQE_SGL */
	uint16_t cid;
	uint32_t nsid;
	uint32_t cdw2, cdw3;
	uint64_t metadata;
	union {
		struct {
			uint64_t prp1, prp2;
		};
		struct nvme_sgl sgl;
	};
	uint32_t cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
};
_Static_assert(sizeof(struct nvme_sqe) == NVME_SQE_BYTES, "as on the wire");

enum { NVME_SQE_SGL = 1 << 6 };

/* cdw12 of READ, WRITE, WRITE ZEROES; bits 15:0 are the number of blocks less one. */
enum nvme_rw_flags {
	NVME_RW_DEALLOCATE = 1 << 25, /* WRITE ZEROES: DEAC, the blocks may be deallocated */
	NVME_RW_FUA = 1 << 30,
};

/* cdw11 of DSM; cdw10 bits 7:0 are the number of ranges less one. */
enum nvme_dsm_flags { NVME_DSM_DEALLOCATE = 1 << 2 };

struct nvme_dsm_range {
	uint32_t attributes;
	uint32_t blocks;
	uint64_t lba;
};
_Static_assert(sizeof(struct nvme_dsm_range) == 16, "as on the wire");

/* Base 3.3.3.2: a completion queue entry. */
struct nvme_cqe {
	uint32_t result; /* DW0 */
	uint32_t reserved;
	uint16_t sq_head;
	uint16_t sqid;
	uint16_t cid;
	uint16_t status; /* bit 0: the phase tag; 15:1: what nvme_status_*() take apart, shifted by 1 */
};
_Static_assert(sizeof(struct nvme_cqe) == NVME_CQE_BYTES, "as on the wire");

/*
 * A status without its phase bit, as NVMe passthrough in Linux returns it as well: 7:0 SC, 10:8
 * SCT, 12:11 CRD, 13 M, 14 DNR. 0: success.
 */
enum nvme_status_bits {
	NVME_STATUS_CODE = 0x7ff, /* SCT and SC; they alone tell success */
	NVME_STATUS_MORE = 0x2000,
	NVME_STATUS_DNR = 0x4000,
};

/* A success whose other bits are set (there is more in the error log, …) is 0 like any other. */
static inline int nvme_status_plain(int status)
{
	return status > 0 && !(status & NVME_STATUS_CODE) ? 0 : status;
}

/* Registers of the controller, Base 3.1.3: offsets in BAR0. */
enum nvme_register {
	NVME_REG_CAP = 0x00,  /* 64 bits */
	NVME_REG_INTMS = 0x0c,
	NVME_REG_CC = 0x14,
	NVME_REG_CSTS = 0x1c,
	NVME_REG_AQA = 0x24,
	NVME_REG_ASQ = 0x28,  /* 64 bits */
	NVME_REG_ACQ = 0x30,  /* 64 bits */
	NVME_REG_DOORBELLS = 0x1000,
};

#define NVME_CAP_MQES(cap) ((uint32_t)((cap) & 0xffff) + 1) /* entries */
#define NVME_CAP_TO_MS(cap) ((uint32_t)((cap) >> 24 & 0xff) * 500)
#define NVME_CAP_DSTRD(cap) (4u << ((cap) >> 32 & 0xf)) /* bytes from one doorbell to the next */
#define NVME_CAP_CSS_NVM(cap) ((cap) >> 37 & 1)
#define NVME_CAP_MPSMIN(cap) (4096u << ((cap) >> 48 & 0xf)) /* bytes */

enum nvme_cc {
	NVME_CC_EN = 1 << 0,
	NVME_CC_SHN_NORMAL = 1 << 14,
	NVME_CC_SHN_MASK = 3 << 14,
	NVME_CC_IOSQES_64 = 6 << 16,
	NVME_CC_IOCQES_16 = 4 << 20,
};

enum nvme_csts {
	NVME_CSTS_RDY = 1 << 0,
	NVME_CSTS_CFS = 1 << 1,
	NVME_CSTS_SHST_MASK = 3 << 2, /* 0: no shutdown was asked for */
	NVME_CSTS_SHST_DONE = 2 << 2,
};

/* cdw10 of IDENTIFY. */
enum nvme_cns {
	NVME_CNS_NAMESPACE = 0x00,
	NVME_CNS_CONTROLLER = 0x01,
	NVME_CNS_ACTIVE_NAMESPACES = 0x02, /* 1024 ids above cdw1's, ascending, ended by 0 */
};

/* Base 5.17.2.1, what is used of it. */
struct nvme_identify_controller {
	uint16_t vid, ssvid;
	char serial[20];   /* padded with blanks */
	char model[40];
	char firmware[8];
	uint8_t rab, ieee[3], cmic;
	uint8_t mdts;      /* 0: no limit, else 2^mdts pages of CAP.MPSMIN */
	uint16_t cntlid;
	uint32_t version;
	uint32_t rtd3r;    /* us, from no power to ready */
	uint32_t rtd3e;    /* us, that a shutdown takes at most; 0: not told */
	uint32_t oaes;     /* which events it tells of; NVME_EVENTS_NAMESPACES */
	uint8_t pad96[160];
	uint16_t oacs;     /* bit 8: doorbell buffer config */
	uint8_t acl;       /* aborts at a time, less one */
	uint8_t aerl;
	uint8_t frmw, lpa, elpe, npss;
	uint8_t pad264[248];
	uint8_t sqes, cqes;
	uint16_t maxcmd;
	uint32_t nn;       /* the highest namespace id */
	uint16_t oncs;     /* enum nvme_oncs */
	uint16_t fuses;
	uint8_t fna;
	uint8_t vwc;       /* bit 0: there is a volatile write cache */
	uint8_t pad526[10];
	uint32_t sgls;     /* bits 1:0: enum nvme_sgls */
	uint8_t pad540[3556];
};
_Static_assert(sizeof(struct nvme_identify_controller) == NVME_IDENTIFY_BYTES, "as on the wire");

enum nvme_sgls {
	NVME_SGLS_MASK = 3,
	NVME_SGLS_ANY = 1,     /* segments of any alignment */
	NVME_SGLS_ALIGNED = 2, /* to 4 bytes, address and length */
};

enum nvme_oncs {
	NVME_ONCS_DSM = 1 << 2,
	NVME_ONCS_WRITE_ZEROES = 1 << 3,
};

enum { NVME_OACS_DOORBELL_BUFFER = 1 << 8 };

struct nvme_lba_format {
	uint16_t metadata_bytes;
	uint8_t data_shift; /* log2 of bytes */
	uint8_t performance;
};

/* NVM Command Set 4.1.5.1, what is used of it. */
struct nvme_identify_namespace {
	uint64_t size;	   /* NSZE: blocks */
	uint64_t capacity; /* blocks */
	uint64_t utilization;
	uint8_t features;
	uint8_t formats;   /* NLBAF, less one */
	uint8_t format;	   /* FLBAS: 3:0 and 6:5 the one in use */
	uint8_t metadata_caps, protection_caps, protection; /* DPS: 2:0 type */
	uint8_t nmic, reservations, progress;
	uint8_t deallocate; /* DLFEAT: 2:0: 1, deallocated blocks read as zeroes; bit 3: DEAC is known */
	uint8_t pad34[70];
	uint8_t nguid[16];
	uint8_t eui64[8];
	struct nvme_lba_format lba_formats[64];
	uint8_t vendor[3712];
};
_Static_assert(sizeof(struct nvme_identify_namespace) == NVME_IDENTIFY_BYTES, "as on the wire");

enum nvme_log_page {
	NVME_LOG_HEALTH = 0x02,
	NVME_LOG_CHANGED_NAMESPACES = 0x04, /* 1024 ids, ended by 0 */
};

/* Base 5.16.1.3, SMART / Health Information. */
struct nvme_health_log {
	uint8_t critical_warning;
	uint8_t temperature[2]; /* Kelvin; not aligned */
	uint8_t available_spare; /* % */
	uint8_t spare_threshold;
	uint8_t percentage_used;
	uint8_t pad6[26];
	uint64_t data_units_read[2]; /* of 1000 * 512 bytes */
	uint64_t data_units_written[2];
	uint64_t host_reads[2];
	uint64_t host_writes[2];
	uint64_t busy_minutes[2];
	uint64_t power_cycles[2];
	uint64_t power_on_hours[2];
	uint64_t unsafe_shutdowns[2];
	uint64_t media_errors[2];
	uint64_t error_log_entries[2];
	uint32_t warning_minutes; /* at or above the temperature that it warns of, and the critical one */
	uint32_t critical_minutes;
	uint8_t pad200[312];
};
_Static_assert(sizeof(struct nvme_health_log) == 512, "as on the wire");

enum nvme_feature {
	NVME_FEATURE_QUEUES = 0x07,
	NVME_FEATURE_ASYNC_EVENTS = 0x0b, /* cdw11: bits as in OAES */
};

enum { NVME_EVENTS_NAMESPACES = 1 << 8 };

/* How many bytes a text of IDENTIFY has without the blanks that pad it. */
static inline int nvme_text_bytes(const char *text, int room)
{
	while (room && (text[room - 1] == ' ' || !text[room - 1]))
		room--;
	return room;
}

#endif
